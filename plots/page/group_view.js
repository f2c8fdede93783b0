// "One group, one gradient": sliders for a handful of completions, and bars for what the chosen
// position makes of them, beside grpo.py's.

const USUAL = {answer: 0, format: 1, length: 64, drift: 0, rare: 0, stale: 0};
const PROBABILITY = {usual: 0.2, rare: 0.02}; // of a token under pi_old
const times = (count, one) => Array.from({length: count}, () => ({...USUAL, ...one}));
const RIGHT = {answer: 1};
// `shown`: the sliders beyond reward, length and ratio that a situation needs.
const REWARD_WEIGHTS = [1, 1]; // as in exercise 5; constant columns cancel
const SITUATIONS = {
  one_right: {
    title: "one right of eight",
    group: [...times(1, RIGHT), ...times(7)],
    shown: [],
    see:
      "A lone right answer. Divided by the group's std its advantage is 2.5; divided by the " +
      "mean, as in maxrl.py, 7. dr_grpo.py divides by nothing.",
  },
  all_right: {
    title: "all right",
    group: times(8, RIGHT),
    shown: [],
    see:
      "Nothing to compare, so no advantage and no gradient. dapo.py would draw another group in " +
      "its place. Make one a little wrong: the std turns a small difference into a large one.",
  },
  long_wrong: {
    title: "a long wrong one",
    group: [...times(4, RIGHT), ...times(3), ...times(1, {length: 240})],
    shown: [],
    see:
      "Number 8 is wrong and long. Under 1/|o| each of its tokens is pushed down less than those " +
      "of a short one; under a constant or a token mean, just as much. dapo.py punishes its " +
      "length too.",
  },
  two_rewards: {
    title: "two rewards",
    group: [
      ...times(1, {answer: 1, format: 0}),
      ...times(4, {answer: 0, format: 1}),
      ...times(1, {answer: 0, format: 0}),
    ],
    shown: ["format"],
    see:
      "Number 1 is right in the wrong format, 2 to 5 are wrong in the right one. Their rewards " +
      "add up to the same, so grpo.py cannot tell them apart. gdpo.py normalises each reward " +
      "first: the rarer one counts more.",
  },
  rare_token: {
    title: "a rare token that moved far",
    group: [...times(1, {...RIGHT, rare: 1.1}), ...times(3, RIGHT), ...times(4)],
    shown: ["rare"],
    see:
      "Number 1 holds a token of probability 0.02 that has become three times as likely. A clip " +
      "of 0.2 stops it, cispo.py keeps it with a capped weight, and dppo.py lets it go on, " +
      "because its probability has hardly moved. gspo.py stops the whole completion.",
  },
  stale_sampler: {
    title: "a stale sampler",
    group: [
      ...times(2, RIGHT),
      ...times(1, {...RIGHT, stale: 0.9}),
      ...times(3),
      ...times(1, {stale: -0.9}),
      ...times(1, {drift: -0.9, rare: 0.7}),
    ],
    shown: ["rare", "stale"],
    see:
      "pi_old finds number 3 likelier than mu did, the program that drew it, and number 7 less " +
      "likely. grpo.py takes mu for pi_old, and its clip stops both; tis.py weighs them by 2, " +
      "its cap, and by 0.41. Number 8 is a failure that the policy has left: grpo.py still " +
      "pushes its rare token down, deepseek_v32.py drops it.",
  },
};
const SLIDERS = {
  // what it is called, its range, and the number that it stands for
  answer: ["reward", 0, 1, 0.05, x => x.toFixed(2)],
  length: ["length", 4, 256, 4, x => `${x} tokens`],
  drift: ["ratio", -1.5, 1.5, 0.05, x => Math.exp(x).toFixed(2)],
  format: ["2nd reward", 0, 1, 0.05, x => x.toFixed(2)],
  rare: ["rare ratio", -1.5, 3, 0.05, x => Math.exp(x).toFixed(2)],
  stale: ["pi_old / mu", -1.5, 1.5, 0.05, x => Math.exp(x).toFixed(2)],
};
const EXTRA = ["format", "rare", "stale"];

// A completion with what is not shown as usual.
function asShown(one) {
  const hidden = EXTRA.filter(key => !state.shown.includes(key));
  return {...one, ...Object.fromEntries(hidden.map(key => [key, USUAL[key]]))};
}

// A completion of the page as the formulas take it; its first token is the rare one, if shown.
function tokensOf(one) {
  const {answer, length, drift, format, stale} = asShown(one);
  const rare = state.shown.includes("rare");
  const old = Array.from({length}, (_, t) =>
    Math.log(rare && !t ? PROBABILITY.rare : PROBABILITY.usual),
  );
  const policy = old.map((x, t) => x + (rare && !t ? one.rare : drift));
  return {answer, format, old, policy, sampler: old.map(x => x - stale), reference: old};
}

// ---- The address: the situation's name, or the numbers of every completion ----------------------

const KEYS = Object.keys(USUAL);

function groupText() {
  const group = SITUATIONS[state.situation]?.group;
  const same = JSON.stringify(group) === JSON.stringify(state.group);
  return same
    ? state.situation
    : state.group.map(one => KEYS.map(key => asShown(one)[key]).join(",")).join(";");
}

function readGroup(text) {
  const rows = text.split(";").map(row => row.split(",").map(Number));
  const fits = row =>
    row.length === KEYS.length &&
    row.every((x, k) => x >= SLIDERS[KEYS[k]][1] && x <= SLIDERS[KEYS[k]][2]);
  if (rows.length >= 4 && rows.length <= 8 && rows.every(fits)) {
    state.group = rows.map(row =>
      Object.fromEntries(
        KEYS.map((key, k) => [key, key === "length" ? Math.round(row[k]) : row[k]]),
      ),
    );
    state.shown = EXTRA.filter(key => state.group.some(one => one[key] !== USUAL[key]));
    state.situation = "";
  } else {
    setSituation(Object.hasOwn(SITUATIONS, text) ? text : "one_right");
  }
}

function setSituation(name) {
  const {group, shown} = SITUATIONS[name];
  Object.assign(state, {situation: name, group: group.map(one => ({...one})), shown: [...shown]});
}

// ---- Sliders ------------------------------------------------------------------------------------

function drawControls() {
  const choose = by("situation");
  choose.append(...Object.entries(SITUATIONS).map(([name, {title}]) => new Option(title, name)));
  choose.append(new Option("your own", ""));
  choose.addEventListener("change", () => {
    if (choose.value) setSituation(choose.value);
    else state.situation = "";
    writeHash();
    drawSliders();
  });
  by("fewer").addEventListener("click", () => resize(-1));
  by("more").addEventListener("click", () => resize(1));
  by("extras").append(
    ...EXTRA.map(key => {
      const box = element("input");
      Object.assign(box, {type: "checkbox", value: key});
      box.addEventListener("change", () => {
        state.shown = EXTRA.filter(one => by("extras").querySelector(`[value=${one}]`).checked);
        changed();
        drawSliders();
      });
      return element("label", "chip", box, element("span", "", SLIDERS[key][0]));
    }),
  );
}

function resize(step) {
  const group = step > 0 ? [...state.group, {...USUAL}] : state.group.slice(0, -1);
  if (group.length < 4 || group.length > 8) return;
  state.group = group;
  changed();
  drawSliders();
}

// The group is no longer the situation whose name it had.
function changed() {
  state.situation = "";
  by("situation").value = "";
  by("see").textContent = "";
  writeHash();
}

function slider(one, index, key) {
  const [title, min, max, step, said] = SLIDERS[key];
  const input = element("input");
  const output = element("output", "", said(one[key]));
  Object.assign(input, {type: "range", min, max, step, value: one[key]});
  input.setAttribute("aria-label", `completion ${index + 1}: ${title}`);
  input.setAttribute("aria-valuetext", said(one[key]));
  input.addEventListener("input", () => {
    one[key] = Number(input.value);
    output.textContent = said(one[key]);
    input.setAttribute("aria-valuetext", said(one[key]));
    drawBars();
  });
  input.addEventListener("change", changed); // not while it is dragged: browsers count these
  return element("label", "slider", element("span", "", title), input, output);
}

function drawSliders() {
  const keys = ["answer", "length", "drift", ...state.shown];
  const rows = state.group.map((one, index) => {
    const row = element(
      "div",
      "completion",
      element("b", "", String(index + 1)),
      element("div", "sliders", ...keys.map(key => slider(one, index, key))),
      element("div", "pushes"),
    );
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", `completion ${index + 1}`);
    return row;
  });
  by("completions").replaceChildren(...rows);
  by("situation").value = state.situation;
  for (const box of by("extras").querySelectorAll("input")) {
    box.checked = state.shown.includes(box.value);
  }
  by("see").textContent = SITUATIONS[state.situation]?.see || "";
  drawBars();
}

// ---- Bars ---------------------------------------------------------------------------------------

const unseen = text => element("span", "unseen", text); // for a screen reader

function said(value) {
  if (Math.abs(value) >= 1000) return value.toExponential(1);
  return value.toFixed(2).replace(/^-0.00$/, "0.00");
}

// The next round number, where a bar ends.
function roundUp(most) {
  const power = 10 ** Math.floor(Math.log10(most || 1));
  const end = [1, 1.5, 2, 3, 5, 7.5, 10].find(x => x * power >= most * 0.999) * power;
  return Number(end.toPrecision(2)); // 1.5 * 0.1 is 0.15000000000000002
}

// A bar to the right of the middle, or to the left below 0.
function bar(side, value, end) {
  const share = (Math.abs(value) / end) * 50;
  const drawn = element("i");
  drawn.style.cssText = `width: ${share}%; left: ${value < 0 ? 50 - share : 50}%`;
  return element(
    "div",
    `bar ${side}`,
    element("span", "track", drawn),
    element("span", "value", unseen(side === "hub" ? "grpo.py " : "chosen "), said(value)),
  );
}

// [[what, [[of each completion under grpo.py], [under `taken`, if given]]]]. A token's weight is
// in units of what a mean over tokens gives it at an advantage of 1, a completion's in units of
// what a mean over completions gives it.
function pushes(taken) {
  const group = state.group.map(tokensOf);
  const tokens = sum(group.map(one => one.policy.length));
  const sides = [takenFrom({}), ...(taken ? [taken] : [])].map(side =>
    gradientOf(side, group, REWARD_WEIGHTS),
  );
  const of = number => sides.map(({weights}) => weights.map(number));
  return [
    ["advantage", sides.map(({advantages}) => advantages)],
    ["weight of a token", of(row => row.at(-1) * tokens)],
    ...(state.shown.includes("rare")
      ? [["weight of the rare token", of(row => row[0] * tokens)]]
      : []),
    ["weight of the completion", of(row => sum(row) * group.length)],
  ];
}

function drawBars() {
  const missing = beyondOneGroup(state.taken);
  const alone = state.refused || missing.length || !state.texts.length;
  const found = pushes(alone ? null : state.taken);
  const ends = found.map(([, sides]) => roundUp(Math.max(...sides.flat().map(Math.abs))));
  const heads = found.map(([title], k) =>
    element(
      "div",
      "push",
      element("b", "", title),
      element(
        "div",
        "bar",
        element("span", "ends", ...[-1, 0, 1].map(x => element("span", "", String(x * ends[k])))),
      ),
    ),
  );
  by("heads").replaceChildren(...heads);
  by("completions")
    .querySelectorAll(".pushes")
    .forEach((row, i) =>
      row.replaceChildren(
        ...found.map(([title, sides], k) =>
          element(
            "div",
            "push",
            element("span", "note", `${title}, ±${ends[k]}`),
            ...sides.map((side, which) => bar(which ? "here" : "hub", side[i], ends[k])),
          ),
        ),
      ),
    );
  by("legend").hidden = Boolean(alone);
  by("chosen-name").textContent = choiceText();
  let why = "";
  if (state.refused) {
    why = "Your choice contradicts itself, so only grpo.py is drawn.";
  } else if (missing.length) {
    why = `One group cannot show what this moves, ${missing.join(", ")}: only grpo.py is drawn.`;
  } else if (alone) {
    why = "Only grpo.py is drawn. Choose what to see beside it.";
  }
  by("drawn").textContent = why;
}
