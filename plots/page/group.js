// The advantage of each completion of one group and the weight of each token's gradient, for any
// choice of moves: the scripts' compute_advantages, policy_loss and aggregate_loss, differentiated
// by hand. A test holds them to the scripts, by autograd.
//
// taken: {move: script}. A group has for each completion `answer` and `format`, two rewards, and
// for each of its tokens log-probs under the policy, pi_old, the sampler and the reference.

const sum = values => values.reduce((total, value) => total + value, 0);
const mean = values => sum(values) / values.length;
const std = values =>
  Math.sqrt(sum(values.map(x => (x - mean(values)) ** 2)) / (values.length - 1));
const spread = values => Math.max(...values) - Math.min(...values);
const optionsOf = script => partsOf[script].options;

// What a group cannot show: an advantage of single tokens, and no group at all.
function beyondOneGroup(taken) {
  const unseen = MOVES.filter(
    move =>
      (["critic", "tracker", "turns"].includes(move) && taken[move] !== "grpo") ||
      (move === "sampling" && data.compose.one_each.includes(taken[move])) ||
      (move === "advantage" &&
        [...data.compose.per_token, ...data.compose.one_each].includes(taken[move])) ||
      (move === "reward" && taken[move] === "zoo.prime"),
  );
  return unseen.map(move => move.replace("_", " "));
}

// Log-probs that stand for pi_old: tis.py computes them afresh, the others take the sampler's.
const oldOf = (taken, tokens) => (taken.sampler === "zoo.tis" ? tokens.old : tokens.sampler);

// Reward components, each with its weight: [[weight, [of each completion]]].
function components(taken, group, [ofAnswer, ofFormat]) {
  const found = [[ofAnswer, group.map(one => one.answer)]];
  if (taken.std !== "zoo.maxrl") found.push([ofFormat, group.map(one => one.format)]);
  if (taken.sampling === "dapo") {
    const {max_new_tokens: budget, overlong_cache: cache} = optionsOf("dapo");
    found.push([
      1,
      group.map(one => Math.min(0, Math.max(-1, (budget - cache - one.policy.length) / cache))),
    ]);
  }
  if (taken.kl === "zoo.rloo") {
    const k1 = one => sum(oldOf(taken, one).map((old, t) => old - one.reference[t]));
    found.push([-optionsOf("zoo.rloo").kl_coef, group.map(k1)]);
  }
  return found;
}

function advantagesOf(taken, group, rewardWeights) {
  let parts = components(taken, group, rewardWeights);
  const silent = parts.map(([, values]) => spread(values) < 1e-6);
  if (taken.advantage === "gdpo") {
    parts = parts.map(([weight, values], k) => [
      weight,
      values.map(x => (silent[k] ? 0 : (x - mean(values)) / (std(values) + 1e-4))),
    ]);
  }
  const pooled = group.map((_, i) => sum(parts.map(([weight, values]) => weight * values[i])));
  if (taken.advantage === "gdpo") {
    return pooled.map(x => (silent.every(Boolean) ? 0 : (x - mean(pooled)) / (std(pooled) + 1e-4)));
  }
  const others = x => (sum(pooled) - x) / (pooled.length - 1);
  const centred = pooled.map(x => x - (taken.advantage === "zoo.rloo" ? others(x) : mean(pooled)));
  let scale = std(pooled) + 1e-4;
  if (data.compose.undivided.includes(taken.std)) scale = 1;
  if (taken.std === "zoo.maxrl") scale = Math.max(mean(pooled), 1e-6);
  if (taken.std === "zoo.reinforce_pp_baseline") scale = std(centred) + 1e-4;
  return centred.map(x => (spread(pooled) < 1e-6 ? 0 : x / scale));
}

// The advantage as a token of this completion has it, once the sampler is corrected for.
function tokenAdvantages(taken, one, A) {
  const old = oldOf(taken, one);
  if (taken.sampler === "zoo.tis") {
    return old.map(
      (x, t) => A * Math.min(Math.exp(x - one.sampler[t]), optionsOf("zoo.tis").max_weight),
    );
  }
  const drift = mean(old.map((x, t) => x - one.policy[t]));
  const stale =
    taken.sampler === "zoo.deepseek_v32" &&
    A < 0 &&
    drift > optionsOf("zoo.deepseek_v32").max_drift;
  return old.map(() => (stale ? 0 : A));
}

// Whether a clip of ratios stops a token (or a completion) that is pushed by A.
const stopped = (A, x, low, high) => (A > 0 ? x > high : A < 0 && x < low);

// d surrogate / d log-prob of a token whose ratio is its own.
const SLOPE = {
  cispo: (A, r, options) => Math.min(r, 1 + options.clip_high) * A,
  "zoo.sapo": (A, r, options) => {
    const tau = A > 0 ? options.tau_positive : options.tau_negative;
    const gate = 1 / (1 + Math.exp(-tau * (r - 1)));
    return 4 * gate * (1 - gate) * r * A;
  },
  "zoo.dppo": (A, r, options, old) => {
    const moved = Math.exp(old) * (r - 1);
    const off = A > 0 ? moved > options.clip_high : moved < -options.clip_low;
    return off ? 0 : Math.min(r, options.max_ratio) * A;
  },
  "zoo.dro": A => A,
};

// For one completion: {slopes: d sum of surrogates / d log-prob of each token, ratios: as the loss
// has them, turns: d ratio / d log-prob of each token, null where every token has its own ratio}.
function surrogateOf(taken, one, A) {
  const old = oldOf(taken, one);
  const logs = one.policy.map((x, t) => x - old[t]);
  const n = logs.length;
  const clip = taken.clip_width;
  const options = optionsOf(clip);
  if (taken.granularity === "grpo") {
    const ratios = logs.map(Math.exp);
    const bounded = (a, r) =>
      stopped(a, r, 1 - options.clip_low, 1 + options.clip_high) ? 0 : r * a;
    const slope = SLOPE[clip] || bounded;
    return {slopes: ratios.map((r, t) => slope(A[t], r, options, old[t])), ratios, turns: null};
  }
  if (taken.granularity === "zoo.gmpo") {
    const kept = logs.map((x, t) =>
      A[t] > 0 ? Math.min(x, options.clip_high) : Math.max(x, -options.clip_low),
    );
    const ratio = Math.exp(mean(kept));
    const turns = logs.map((x, t) => (kept[t] === x ? ratio / n : 0));
    return {slopes: turns.map(turn => turn * sum(A)), ratios: logs.map(() => ratio), turns};
  }
  const product = taken.granularity === "zoo.rloo";
  const whole = product ? Math.min(sum(logs), 20) : mean(logs);
  const ratio = Math.exp(whole);
  const turn = product ? (whole < 20 ? ratio : 0) : ratio / n;
  const live = sum(A.filter(a => !stopped(a, ratio, 1 - options.clip_low, 1 + options.clip_high)));
  return {
    slopes: logs.map(() => turn * live),
    ratios: logs.map(() => ratio),
    turns: logs.map(() => turn),
  };
}

// d sum of KL terms / d log-prob of each token, beta included.
function klOf(taken, one, {ratios, turns}) {
  const ahead = one.policy.map((x, t) => one.reference[t] - x);
  const beta = optionsOf(taken.kl).kl_coef;
  const k3 = ahead.map(x => Math.exp(x) - x - 1);
  switch (taken.kl) {
    case "grpo":
      return ahead.map(x => beta * (1 - Math.exp(x)));
    case "zoo.reinforce_pp_baseline":
      return ahead.map(x => -beta * x);
    case "zoo.dro":
      return one.policy.map((x, t) => beta * (x - oldOf(taken, one)[t]));
    case "zoo.deepseek_v32":
      return ahead.map(
        (x, t) =>
          beta * (ratios[t] * (1 - Math.exp(x)) + (turns ? turns[t] * sum(k3) : ratios[t] * k3[t])),
      );
    default:
      return ahead.map(() => 0);
  }
}

// {advantages: of each completion, weights: minus d loss / d log-prob of each token}; above 0 it
// makes a token likelier. Without any advantage there is no step, and no weight.
function gradientOf(taken, group, rewardWeights) {
  const advantages = advantagesOf(taken, group, rewardWeights);
  const tokens = sum(group.map(one => one.policy.length));
  const divisor = one =>
    ({
      dr_grpo: optionsOf("grpo").max_new_tokens * group.length,
      grpo: one.policy.length * group.length,
    })[taken.length] || tokens;
  const weights = group.map((one, i) => {
    const made = surrogateOf(taken, one, tokenAdvantages(taken, one, advantages[i]));
    const kl = klOf(taken, one, made);
    return made.slopes.map((slope, t) =>
      advantages.some(Boolean) ? (slope - kl[t]) / divisor(one) : 0,
    );
  });
  return {advantages, weights};
}
