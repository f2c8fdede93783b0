// "One group, one gradient": sliders for a handful of completions, and bars for what the chosen
// position makes of them, beside grpo.py's.

const USUAL = {answer: 0, format: 1, length: 64, drift: 0, rare: 0, stale: 0};
const PROBABILITY = {usual: 0.2, rare: 0.02}; // of a token under pi_old
const times = (count, one) => Array.from({length: count}, () => ({...USUAL, ...one}));
const RIGHT = {answer: 1};
// What is to be seen in each; `shown`: the sliders beyond reward, length and ratio that it needs.
const SITUATIONS = {
  one_right: [
    "one right of eight",
    [...times(1, RIGHT), ...times(7)],
    [],
    "A lone right answer. Dividing by a std lifts it far above the wrong ones; dividing by the mean, as maxrl.py does, further still; dr_grpo.py leaves it as it is.",
  ],
  all_right: [
    "all right",
    times(8, RIGHT),
    [],
    "Nothing to compare, so no advantage and no gradient. dapo.py would draw another group in its place. Make one wrong and see.",
  ],
  long_wrong: [
    "a long wrong one",
    [...times(4, RIGHT), ...times(3), ...times(1, {length: 240})],
    [],
    "Under 1/|o| each token of the long wrong answer is pushed down less than a token of a short one. A constant or a token mean treats them alike; dapo.py's punishment adds to it.",
  ],
  two_rewards: [
    "two rewards",
    [
      ...times(1, {...RIGHT, format: 1}),
      ...times(1, {...RIGHT, format: 0}),
      ...times(2, {format: 1}),
      ...times(2, {format: 0}),
    ],
    ["format"],
    "The format is worth a tenth of the answer. gdpo.py normalises each reward by itself first, so that the format is told apart wherever it differs.",
  ],
  rare_token: [
    "a rare token that moved far",
    [...times(1, {...RIGHT, rare: 1.1}), ...times(3, RIGHT), ...times(4)],
    ["rare"],
    "The first answer holds a token of probability 0.02 that has become three times as likely. A clip of 0.2 stops it, cispo.py keeps it with a capped weight, dppo.py lets it go on: its probability has hardly moved. Give it a drift of its own and gspo.py stops the whole row.",
  ],
  stale_sampler: [
    "a stale sampler",
    [
      ...times(2, RIGHT),
      ...times(1, {...RIGHT, stale: 0.9}),
      ...times(3),
      ...times(1, {drift: -0.9}),
      ...times(1, {drift: -0.3, stale: -0.9}),
    ],
    ["stale"],
    "pi_old / mu is how much likelier the trained policy found the tokens than the program that drew them. grpo.py takes the one for the other; tis.py weighs with it; deepseek_v32.py drops failures that the policy has left.",
  ],
};
const SLIDERS = {
  // what it is called, its range, and the number that it stands for
  answer: ["reward", 0, 1, 0.05, x => x.toFixed(2)],
  length: ["length", 4, 256, 4, x => `${x} tokens`],
  drift: ["ratio", -1.5, 1.5, 0.05, x => Math.exp(x).toFixed(2)],
  format: ["second reward", 0, 1, 0.05, x => x.toFixed(2)],
  rare: ["rare token's ratio", -1.5, 3, 0.05, x => Math.exp(x).toFixed(2)],
  stale: ["pi_old / mu", -1.5, 1.5, 0.05, x => Math.exp(x).toFixed(2)],
};
const EXTRA = ["format", "rare", "stale"];

// A completion of the page as the formulas take it. Its first token is the rare one, if it is shown.
function tokensOf(one) {
  const {length, drift, stale, answer, format} = one;
  const rare = state.shown.includes("rare");
  const old = Array.from({length}, (_, t) =>
    Math.log(rare && !t ? PROBABILITY.rare : PROBABILITY.usual),
  );
  const policy = old.map((x, t) => x + (rare && !t ? one.rare : drift));
  return {answer, format, old, policy, sampler: old.map(x => x - stale), reference: old};
}

// ---- The address: the situation's name, or the numbers of every completion -----------------------

const KEYS = Object.keys(USUAL);

function groupText() {
  const [, group] = SITUATIONS[state.situation];
  const same = JSON.stringify(group) === JSON.stringify(state.group);
  return same
    ? state.situation
    : state.group.map(one => KEYS.map(key => one[key]).join(",")).join(";");
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
    state.situation = "one_right";
  } else {
    setSituation(SITUATIONS[text] ? text : "one_right");
  }
}

function setSituation(name) {
  const [, group, shown] = SITUATIONS[name];
  Object.assign(state, {situation: name, group: group.map(one => ({...one})), shown: [...shown]});
}

// ---- Sliders -------------------------------------------------------------------------------------

function drawControls() {
  const choose = by("situation");
  choose.append(...Object.entries(SITUATIONS).map(([name, [title]]) => new Option(title, name)));
  choose.addEventListener("change", () => {
    setSituation(choose.value);
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
  writeHash();
  drawSliders();
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
    writeHash();
    drawBars();
  });
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
  by("see").textContent = SITUATIONS[state.situation][3];
  drawBars();
}

// ---- Bars ----------------------------------------------------------------------------------------

// A bar to the right of the middle, or to the left below 0; `most` fills its half.
function bar(name, value, most) {
  const share = most ? (Math.abs(value) / most) * 50 : 0;
  const drawn = element("i");
  drawn.style.cssText = `width: ${share}%; left: ${value < 0 ? 50 - share : 50}%`;
  return element(
    "div",
    `bar ${name}`,
    element("span", "track", drawn),
    element("span", "value", value.toFixed(2).replace(/^-0.00$/, "0.00")),
  );
}

// [[what, [of each completion under grpo.py], [under `taken`, where it is given]]]; a weight is in
// units of a token's share of the group: 1 is a token mean's push at an advantage of 1.
function pushes(taken) {
  const group = state.group.map(tokensOf);
  const tokens = sum(group.map(one => one.policy.length));
  const sides = [takenFrom({}), ...(taken ? [taken] : [])].map(side => gradientOf(side, group));
  const found = [
    ["advantage", sides.map(side => side.advantages)],
    ["weight of a token", sides.map(side => side.weights.map(row => row.at(-1) * tokens))],
  ];
  if (state.shown.includes("rare")) {
    found.push(["of the rare token", sides.map(side => side.weights.map(row => row[0] * tokens))]);
  }
  return found;
}

function drawBars() {
  const unseen = beyondOneGroup(state.taken);
  const alone = state.refused || unseen.length || !state.texts.length;
  const found = pushes(alone ? null : state.taken);
  const most = found.map(([, sides]) => Math.max(...sides.flat().map(Math.abs)));
  by("completions")
    .querySelectorAll(".pushes")
    .forEach((row, i) =>
      row.replaceChildren(
        ...found.map(([title, sides], k) =>
          element(
            "div",
            "push",
            element("span", "note", title),
            ...sides.map((side, which) => bar(which ? "here" : "hub", side[i], most[k])),
          ),
        ),
      ),
    );
  by("drawn").textContent = state.refused
    ? "Your choice contradicts itself, so only grpo.py is drawn."
    : unseen.length
      ? `One group cannot show ${unseen.join(", ")}, so only grpo.py is drawn.`
      : state.texts.length
        ? `Upper bars: grpo.py. Lower bars: ${choiceText()}.`
        : "Only grpo.py is chosen. Move an axis above, or start from a script.";
}

function drawGroup() {
  if (by("completions").childElementCount) drawBars();
  else drawSliders();
}
