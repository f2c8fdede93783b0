// "Move the axes": the rows of positions, and what the page says of a choice. A choice is what
// stands behind `python -m compose`: parts, or the preset that they are of.

const nameOf = move => (move === "kl" ? "KL" : move.replaceAll("_", " "));
const positionOf = (move, script) =>
  Math.max(
    0,
    data.compose.positions[move].findIndex(([, , scripts]) => scripts.includes(script)),
  );
const wordOf = (move, script) => data.compose.positions[move][positionOf(move, script)][0];
const partsAway = (one, other) =>
  MOVES.filter(move => positionOf(move, one[move]) !== positionOf(move, other[move]));

// A choice as {move: script}, also where it is refused; what is no part is left out.
function parsed(texts) {
  return texts.flatMap(text => {
    try {
      return [parsePart(text)];
    } catch (error) {
      return [];
    }
  });
}
const takenOf = texts => takenFrom(ownersOf(parsed(texts)).owner);

const methods = data.compose.methods.map(one => ({...one, taken: takenOf(one.parts)}));
// Those at a place, a script's own method first.
const methodsAt = taken =>
  methods
    .filter(method => !partsAway(method.taken, taken).length)
    .sort((one, other) => other.own - one.own);

// Parts for {move: script}: a script is named alone if all that it moves is taken from it.
function textsOf(owner, order) {
  const scripts = [...new Set([...order, ...Object.values(owner)])].filter(
    script => script !== "grpo",
  );
  return scripts.flatMap(script => {
    const moves = MOVES.filter(move => owner[move] === script);
    const short = script.split(".").pop();
    if (!moves.length) return [];
    return [moves.length === ownMoves(script).length ? short : `${short}:${moves.join(",")}`];
  });
}

// The choice with one move elsewhere; of scripts at a place, one is taken that is in the choice.
function movedTo(texts, move, index) {
  const owner = {};
  const order = [];
  for (const part of parsed(texts)) {
    order.push(part.script);
    for (const own of part.moves) owner[own] = part.script;
  }
  const scripts = data.compose.positions[move][index][2];
  owner[move] =
    scripts.find(script => script !== "grpo" && Object.values(owner).includes(script)) ||
    scripts[0];
  return textsOf(owner, order);
}

const attempt = (texts, preset) => {
  try {
    return composeParts(texts, preset);
  } catch (error) {
    if (error instanceof Refused) return {refused: error.message};
    throw error;
  }
};

// ---- Rows of positions -------------------------------------------------------------------------

function drawRows() {
  const rows = MOVES.map(move => {
    const chips = data.compose.positions[move].map(([short, full, scripts], index) => {
      const input = element("input");
      const who = scripts.map(script => script.split(".").pop()).join(", ");
      Object.assign(input, {type: "radio", name: `move-${move}`, value: index});
      input.addEventListener("change", () => chooseParts(movedTo(state.texts, move, index), ""));
      const chip = element(
        "label",
        "chip",
        input,
        element("span", "", short),
        element("small", "", who),
      );
      input.title = full; // it lies over all of the chip
      return chip;
    });
    const row = element(
      "div",
      "move",
      element("b", "", nameOf(move)),
      element("div", "chips", ...chips),
    );
    row.setAttribute("role", "radiogroup");
    row.setAttribute("aria-label", nameOf(move));
    return row;
  });
  by("moves").replaceChildren(...rows);
  for (const bundle of bundles) drawBundle(bundle);
}

// Two of them, with one value: above the rows, and again above the group's bars.
const bundles = document.querySelectorAll(".bundle");

function drawBundle(bundle) {
  const scripts = element("optgroup");
  const presets = element("optgroup");
  scripts.label = "one script";
  presets.label = "a bundle that people meet";
  for (const script of Object.keys(partsOf)) {
    scripts.append(new Option(fileOf(script), script.split(".").pop()));
  }
  for (const [name, preset] of Object.entries(data.compose.presets)) {
    if (preset.parts.split(" ").every(scriptNamed)) {
      presets.append(new Option(preset.title, `--preset ${name}`));
    }
  }
  bundle.append(new Option("grpo.py", "grpo"), new Option("your own choice", ""), scripts, presets);
  bundle.addEventListener(
    "change",
    () => bundle.value && chooseParts(...parsedChoice(bundle.value)),
  );
}

// "dapo gspo", "grpo" or "--preset grpo_zero" -> [parts, preset]
function parsedChoice(text) {
  const words = text.split(/[ +]/).filter(Boolean);
  const {presets} = data.compose;
  if (words[0] === "--preset" && Object.hasOwn(presets, words[1])) {
    return [presets[words[1]].parts.split(" "), words[1]];
  }
  return [words.filter(word => word !== "grpo"), ""];
}

const choiceText = () => (state.preset ? `--preset ${state.preset}` : state.texts.join(" "));

function chooseParts(texts, preset) {
  Object.assign(state, {texts, preset});
  writeHash();
  drawChoice();
  drawBars();
}

function drawChoice() {
  const taken = takenOf(state.texts);
  const made = attempt(state.texts, state.preset);
  state.taken = taken;
  state.refused = made.refused;
  for (const move of MOVES) {
    const at = positionOf(move, taken[move]);
    by("moves")
      .querySelectorAll(`input[name=move-${move}]`)
      .forEach((input, index) => {
        const why = index === at ? "" : attempt(movedTo(state.texts, move, index)).refused;
        input.checked = index === at;
        input.parentElement.classList.toggle("clash", Boolean(why));
        input.title = data.compose.positions[move][index][1] + (why ? `\nRefused: ${why}` : "");
      });
  }
  for (const bundle of bundles) {
    const known = [...bundle.options].map(option => option.value);
    const chosen = choiceText() || "grpo";
    bundle.value = known.includes(chosen) ? chosen : "";
  }
  by("verdict").replaceChildren(...verdict(taken));
  by("made").replaceChildren(...(made.refused ? refusal(made.refused) : written(taken, made)));
}

const scriptNamed = text =>
  Object.keys(partsOf).find(
    script => script.split(".").pop() === text.split(":")[0].replace(/\.py$/, ""),
  );

// ---- Which method it is ------------------------------------------------------------------------

function methodLink(method) {
  return method.arxiv
    ? link(`https://arxiv.org/abs/${method.arxiv}`, method.name)
    : element("span", "", method.name);
}

function verdict(taken) {
  if (state.refused) return [element("b", "", "compose refuses: "), `${state.refused}.`];
  const [shown, ...rest] = methodsAt(taken);
  if (!shown) return [element("b", "", "No method of the atlas lies here. "), ...nearest(taken)];
  const alike = rest.flatMap((method, i) => [i ? ", " : "", methodLink(method)]);
  return [
    element("b", "", "This is "),
    methodLink(shown),
    ` (${shown.year}). ${shown.words}`,
    ...(rest.length
      ? [element("p", "", "At the same place, differing only off the axes: ", ...alike, ".")]
      : []),
  ];
}

// The methods that are parted from the choice by the fewest moves, and by which.
function nearest(taken) {
  const away = methods.map(method => ({method, moves: partsAway(method.taken, taken)}));
  const least = Math.min(...away.map(({moves}) => moves.length));
  const parting = ({method, moves}) =>
    moves.map(move => {
      const [here, there] = [taken, method.taken].map(side => wordOf(move, side[move]));
      return `${nameOf(move)} (${here} here, ${there} there)`;
    });
  const items = away
    .filter(({moves}) => moves.length === least)
    .slice(0, 3)
    .map(one => {
      const by = parting(one).join(", ");
      return element("span", "", methodLink(one.method), ` (${one.method.year}), parted by ${by}`);
    });
  return ["Nearest:", list(items)];
}

function refusal(why) {
  const script = Object.keys(partsOf).find(
    name => why.startsWith(`${fileOf(name)}'s`) && why.includes("cannot do without its"),
  );
  if (!script) return [element("p", "note", "Any place that is not dashed leads out of this.")];
  const name = script.split(".").pop();
  const rest = state.texts.filter(text => scriptNamed(text) !== script);
  return [button(`take all that ${name}.py moves`, () => chooseParts([...rest, name], ""))];
}

// ---- What compose writes -----------------------------------------------------------------------

function written(taken, made) {
  const preset = data.compose.presets[state.preset];
  const commands = state.texts.length
    ? [`python -m compose ${choiceText()} -o mine.py`, `python mine.py ${preset?.flags || ""}`]
    : ["python grpo.py"];
  const notes = made.notes.map(note => `Note: ${note}`);
  if (preset) notes.push(`Left out: ${preset.left_out}.`);
  const lines = made.equations.map(line => {
    const moved = !data.scripts.grpo.equations.includes(line);
    return element("span", moved ? "differs" : "", line || " ");
  });
  const columns = ["TRL", "verl"].map(library => flagsFor(library, taken));
  return [
    ...commands.map(command => element("div", "", element("code", "command", command.trim()))),
    ...notes.map(note => element("p", "note", note)),
    element(
      "div",
      "written",
      element(
        "div",
        "",
        element("h3", "", "Its equations"),
        element("pre", "", ...lines),
        ...diffOf(made),
      ),
      element("div", "", element("div", "flags", ...columns), ...measuredOf(taken)),
    ),
  ];
}

const colours = new Map(
  Object.values(data.scripts).flatMap(script =>
    script.lines.map(line => [line.map(([, text]) => text).join(""), line]),
  ),
);

function codeLine(kind, sign, text) {
  const pieces = (colours.get(text) || [["", text]]).map(([name, piece]) =>
    element("span", name, piece),
  );
  return element("div", `diff ${kind}`, `${sign} `, ...pieces);
}

// Neighbouring rows that are not grpo.py's: [[row, ...], ...]
function hunksOf(rows) {
  const hunks = [];
  rows.forEach((row, index) => {
    if (!row.edit) return;
    if (!index || !rows[index - 1].edit) hunks.push([]);
    hunks.at(-1).push(row);
  });
  return hunks;
}

function diffOf(made) {
  const removed = row => row.edit && row.old !== null;
  const added = row => row.edit && row.line !== null;
  if (!state.texts.length) return [];
  const blocks = hunksOf(made.rows).map(rows => {
    const whose = [
      ...new Set(rows.map(({edit}) => `${nameOf(edit.move)} (${fileOf(edit.script)})`)),
    ];
    const label = `${rows[0].edit.place}: ${whose.join(", ")}`;
    return element(
      "div",
      "hunk",
      element("div", "label", label),
      ...rows.filter(removed).map(row => codeLine("old", "-", hubCode[row.old])),
      ...rows.filter(added).map(row => codeLine("new", "+", row.line)),
    );
  });
  const count = `+${made.rows.filter(added).length} -${made.rows.filter(removed).length}`;
  const docstring = element(
    "details",
    "docstring",
    element("summary", "", "its docstring"),
    element("pre", "", `"""${made.docstring}"""`),
  );
  const title = element("h3", "", `The diff against grpo.py: ${count}`);
  const box = element("details", "diffs", element("summary", "", title), docstring, ...blocks);
  box.open = state.unfolded;
  box.addEventListener("toggle", () => (state.unfolded = box.open));
  return [box];
}

// ---- Flags -------------------------------------------------------------------------------------

// For each move a script at its place speaks, whose flags set no other move elsewhere; of several
// the one whose flags set most. What grpo.py's flag would hold, another's may.
function flagsFor(library, taken) {
  const flagsOf = (script, move) =>
    (data.compose.flags[script][library] || []).filter(([, sets]) => sets.includes(move));
  const fits =
    script =>
    ([, sets]) =>
      sets.every(move => positionOf(move, script) === positionOf(move, taken[move]));
  const breadth = (script, move) =>
    Math.max(...flagsOf(script, move).map(([, sets]) => sets.length));
  const flags = new Map();
  const remarks = [];
  const moved = move => positionOf(move, taken[move]) > 0;
  const order = [...MOVES].sort((a, b) => moved(b) - moved(a));
  for (const move of order) {
    const place = data.compose.positions[move][positionOf(move, taken[move])];
    const there = place[2].filter(script => flagsOf(script, move).length);
    const [speaker] = there
      .filter(script => flagsOf(script, move).every(fits(script)))
      .sort((a, b) => breadth(b, move) - breadth(a, move));
    if (!speaker && taken[move] !== "grpo" && positionOf(move, taken[move])) {
      const beside = there.length && flagsOf(there[0], move).find(flag => !fits(there[0])(flag));
      remarks.push(
        beside
          ? `no flag for ${nameOf(move)} alone: ${beside[0]} sets ` +
              beside[1].map(nameOf).join(", ")
          : `no flag for ${nameOf(move)}: ${place[0]}`,
      );
    }
    for (const [flag] of speaker ? flagsOf(speaker, move) : []) {
      const key = flag.split("=")[0];
      const other = flags.get(key);
      if (!other) {
        flags.set(key, flag);
      } else if (other !== flag && speaker !== "grpo") {
        remarks.push(`one option cannot be both: ${other} and ${flag}`);
      }
    }
  }
  if (flags.has("RLOOTrainer")) for (const flag of ["loss_type", "scale_rewards"]) flags.delete(flag);
  const lines = [...flags.values()].map(flag => element("code", "", flag));
  const published = methodsAt(taken)
    .filter(method => method.parts.join(" ") !== state.texts.join(" ") && method[library] !== "-")
    .map(method => element("span", "", `${method.name}: `, element("code", "", method[library])));
  return element(
    "div",
    "",
    element("h3", "", library),
    list([...lines, ...remarks.map(text => element("span", "note", text))]),
    ...(published.length ? [element("p", "note", "As the atlas has it:"), list(published)] : []),
  );
}

// ---- Measured ----------------------------------------------------------------------------------

function measuredOf(taken) {
  const whole = data.compose.measured
    .filter(({parts}) => !partsAway(takenOf(parts), taken).length)
    .flatMap(({rows}) => rows);
  const scripts = [...new Set(MOVES.map(move => taken[move]))].filter(
    script => script !== "grpo" && data.scripts[script].effects.length,
  );
  const own =
    scripts.length === 1 && !partsAway(takenOf([scripts[0].split(".").pop()]), taken).length;
  const made = [];
  if (whole.length) {
    made.push(element("h3", "", "Measured of this composition"), effectTable(whole));
  }
  for (const script of scripts) {
    made.push(
      element(
        "h3",
        "",
        own ? "Measured, moving to it" : `Measured, moving to ${fileOf(script)} alone`,
      ),
      effectTable(data.scripts[script].effects.slice(0, own ? 6 : 2)),
    );
  }
  const nothing = state.texts.length
    ? "Nothing was measured of this."
    : "Every effect is measured from here: choose another position.";
  return made.length ? made : [element("p", "note", nothing)];
}
