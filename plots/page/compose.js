// Several scripts' moves as one script, as compose/composition.py and compose/text.py put them
// together. What they read off the scripts is data.compose, written by plots/moves.py; a test holds
// every composition to the file that `python -m compose` writes.

const partsOf = data.compose.scripts;
const MOVES = Object.keys(data.compose.moves);
const RATIOS = ["s_i", "r_it"];
const SYMBOL = /\b(?!o_)[A-Za-z]_i[tk]?\b/g;
const LEFT_OUT = ["k_it", "L", "after"];
const hubCode = (() => {
  const lines = data.scripts.grpo.lines.map(line => line.map(([, text]) => text).join(""));
  return lines.slice(1 + lines.indexOf('"""', 1));
})();

class Refused extends Error {}
function refuse(why) {
  throw new Refused(why);
}

const fileOf = script => `${script.split(".").pop()}.py`;
const editsOf = script =>
  partsOf[script].edits.map(([move, place, at, replaces, line]) => ({
    script,
    move,
    place,
    at,
    replaces,
    line,
  }));
const ownMoves = script =>
  MOVES.filter(move => partsOf[script].edits.some(edit => edit[0] === move));
const takenFrom = owner => Object.fromEntries(MOVES.map(move => [move, owner[move] || "grpo"]));
const meets = (wanted, owner) =>
  Object.entries(wanted).every(([move, names]) => names.includes(owner[move] || "grpo"));

// ---- Parts -------------------------------------------------------------------------------------

function findScript(name) {
  const known = data.compose.known;
  const plain = name.replace(/\.py$/, "").replaceAll("/", ".");
  const script = known.includes(plain) ? plain : `zoo.${plain}`;
  if (!known.includes(script)) {
    refuse(
      `${name}: no such script; there are ${known.map(one => one.split(".").pop()).join(", ")}`,
    );
  }
  if (script === "grpo") refuse("grpo: it moves nothing; it is what the others are compared with");
  if (!partsOf[script]) {
    refuse(`${name}: it is compared with another script than grpo.py; take that`);
  }
  return script;
}

// "dapo" or "dapo:length,kl" -> {text, script, moves}
function parsePart(text) {
  const [name, axes] = text.split(/:(.*)/s);
  const script = findScript(name);
  const own = ownMoves(script);
  if (axes === undefined) return {text, script, moves: own};
  const moves = [];
  for (const axis of axes.split(",")) {
    const asked = axis === "length_std" ? ["length", "std"] : [axis];
    if (!asked.some(move => own.includes(move))) {
      refuse(`${text}: ${fileOf(script)} moves ${own.join(", ")}, not '${axis}'`);
    }
    moves.push(...asked.filter(move => own.includes(move)));
  }
  return {text, script, moves};
}

// ---- Merging -----------------------------------------------------------------------------------

// {move: the script it is taken from}, and notes: of a move that two parts make the later wins.
function ownersOf(parts) {
  const owner = {};
  const notes = [];
  for (const {script, moves} of parts) {
    for (const move of moves) {
      if ((owner[move] || script) !== script) {
        notes.push(
          `Of ${move.replaceAll("_", " ")} ${fileOf(script)}'s is taken, ` +
            `not ${fileOf(owner[move])}'s.`,
        );
      }
      owner[move] = script;
    }
  }
  if (owner.advantage === "gdpo") {
    if (owner.std) {
      notes.push(`gdpo.py divides each component by its own std: not ${fileOf(owner.std)}'s.`);
    }
    owner.std = "gdpo";
  }
  return {owner, notes};
}

function check(parts, owner) {
  const named = new Set();
  for (const {text, script, moves} of parts) {
    const twice = moves.filter(move => named.has(`${script}:${move}`));
    if (twice.length) {
      refuse(
        `${text}: ${fileOf(script)}'s ${[...new Set(twice)].sort().join(", ")} is named twice`,
      );
    }
    for (const move of moves) named.add(`${script}:${move}`);
  }
  for (const {text, script} of parts) {
    if (!Object.values(owner).includes(script)) {
      refuse(`${text}: later parts move all that it moves; put it last or name axes`);
    }
  }
  for (const [script, moves] of Object.entries(data.compose.together)) {
    const taken = moves.filter(move => owner[move] === script);
    const missing = moves.filter(move => owner[move] !== script);
    if (taken.length && missing.length) {
      refuse(
        `${fileOf(script)}'s ${taken.join(", ")} cannot do without its ${missing.join(", ")}; ` +
          "put it last, or take none of them",
      );
    }
  }
  if (owner.advantage === "zoo.gigpo" && owner.turns !== "zoo.gigpo") {
    refuse("gigpo.py's advantage cannot do without its turns");
  }
  for (const {owners, why, source} of data.compose.clashes) {
    if (meets(owners, owner)) refuse(`${why} (${source})`);
  }
}

// Rows {old, line, edit}: old is the place in grpo.py's code or null, line null where it is gone.
// Of lines that are added at one place, those that go on with a class or function of grpo.py stand
// before those that open another.
function merge(edits) {
  const before = hubCode.map(() => []);
  const instead = {};
  for (const edit of edits) {
    if (!edit.replaces) {
      before[edit.at]?.push(edit);
      continue;
    }
    const other = (instead[edit.at] ||= edit);
    if (other.script !== edit.script) {
      const whose = [other, edit].map(({script, move}) => `${fileOf(script)}'s ${move}`);
      refuse(
        `${whose.join(" and ")} rewrite the same line of ${edit.place}; name the axes to take`,
      );
    }
  }
  return hubCode.flatMap((line, at) => {
    const open = data.compose.places.at(at - 1);
    const goesOn = edit => edit.place === open && open !== "between";
    const first = before[at].filter(goesOn);
    const then = before[at].filter(edit => !goesOn(edit));
    return [
      ...[...first, ...then].map(edit => ({old: null, line: edit.line, edit})),
      {old: at, line: instead[at] ? instead[at].line : line, edit: instead[at]},
    ];
  });
}

const textOf = rows =>
  rows
    .filter(row => row.line !== null)
    .map(row => `${row.line}\n`)
    .join("");

// `old` stands once in the text of the rows; its lines and those of `fresh` are of one move.
function rewrite(rows, old, fresh) {
  const written = rows.filter(row => row.line !== null);
  const text = textOf(rows);
  const at = text.indexOf(old);
  const first = text.slice(0, at).split("\n").length - 1;
  const last = text.slice(0, at + old.length - 1).split("\n").length - 1;
  const start = rows.indexOf(written[first]);
  const end = rows.indexOf(written[last]) + 1;
  const lines = textOf(written.slice(first, last + 1))
    .replace(old, () => fresh)
    .split("\n")
    .slice(0, -1);
  const {edit} = rows[start];
  const olds = rows
    .slice(start, end)
    .map(row => row.old)
    .filter(one => one !== null);
  const made = lines.map((line, index) => ({old: olds[index] ?? null, line, edit}));
  return [...rows.slice(0, start), ...made, ...rows.slice(end)];
}

function requireOptions(code) {
  const config = code.slice(code.indexOf("class Config"), code.indexOf("class Rollout"));
  const known = [...config.matchAll(/^    (\w+):/gm)].map(match => match[1]);
  for (const line of code.split("\n")) {
    for (const [, name] of line.split("  #")[0].matchAll(/(?<![\w.])config\.(\w+)/g)) {
      if (!known.includes(name)) {
        refuse(
          `\`${line.trim()}\` reads config.${name}, which no part defines: take the whole part ` +
            "that has it, or leave out the axes that removed it",
        );
      }
    }
  }
}

// Parts as on the command line, and the preset that they are of -> the script; or Refused.
function composeParts(texts, preset) {
  const parts = texts.map(parsePart);
  const {owner, notes} = ownersOf(parts);
  check(parts, owner);
  const interactions = data.compose.interactions.filter(one => meets(one.owners, owner));
  const leftOut = interactions.map(one => one.without.join());
  const edits = parts.flatMap(part =>
    editsOf(part.script).filter(
      edit =>
        part.moves.includes(edit.move) &&
        owner[edit.move] === part.script &&
        !leftOut.includes([edit.script, edit.move, edit.place].join()),
    ),
  );
  let rows = merge(edits);
  for (const one of interactions) {
    for (const [old, fresh] of Object.entries(one.rewrite)) rows = rewrite(rows, old, fresh);
  }
  const code = textOf(rows);
  notes.push(...interactions.map(one => one.answer).filter(Boolean));
  requireOptions(code);
  const cautions = data.compose.cautions.filter(caution => meets(caution.owners, owner));
  notes.push(...cautions.map(({why, source}) => `${why} (${source}).`));
  const taken = takenFrom(owner);
  const equations = stated(taken);
  const ofPreset = data.compose.presets[preset];
  const docstring = docstringOf(parts, taken, equations, notes, ofPreset, code);
  return {notes, rows, equations, docstring, source: `"""${docstring}"""\n${code}`};
}

// ---- The docstring -----------------------------------------------------------------------------

const withoutComment = line => line.split("  #")[0].trim();

function docstringOf(parts, taken, equations, notes, preset, code) {
  const said = parts.map(
    ({script, moves}, index) =>
      `${index + 1}) ${fileOf(script)}${partsOf[script].paper}: ` +
      moves.filter(move => taken[move] === script).join(", "),
  );
  const command = `python -m compose ${parts.map(part => part.text).join(" ")}`;
  const origin = `vs grpo.py: composed by \`${command}\`: ${said.join("; ")}.`;
  let title = parts.map(part => data.scripts[part.script].method).join(" + ");
  let leftOut = "what the parts leave out, as their docstrings say";
  let first = [];
  if (preset) {
    title = `${preset.title} (${preset.source})`;
    leftOut = `${preset.left_out}; ${leftOut}`;
    first = preset.flags ? [`Run it with ${preset.flags}.`] : [];
  }
  const drawn = taken.advantage === "zoo.gigpo" ? taken.turns : taken.sampling;
  const introduced =
    data.compose.one_each.includes(drawn) || drawn === "zoo.gigpo" ? drawn : "grpo";
  const blocks = [
    `${title}: a composition.`,
    partsOf[introduced].introduction.join("\n"),
    equations.map(line => `    ${line}`).join("\n"),
    ["Coordinates on the seven axes:", ...coordinateLines(taken, data.axes)].join("\n"),
    coordinateLines(taken, data.extras).join("\n"),
    ["The method in code:", ...methodLines(parts, code)].join("\n"),
    [origin, ...first, ...notes, `Not implemented: ${leftOut}.`].map(wrapped).join("\n"),
  ];
  return `${blocks.filter(Boolean).join("\n\n")}\n`;
}

function methodLines(parts, code) {
  const written = code.split("\n").map(withoutComment);
  const once = line => written.filter(one => one === line).length === 1;
  const quoted = parts.flatMap(({script, moves}) => {
    const found = data.scripts[script].quoted.filter(once);
    const marked = editsOf(script).filter(
      edit => moves.includes(edit.move) && /#((?!<-).)*<- /.test(edit.line || ""),
    );
    const bodies = marked
      .map(edit => withoutComment(edit.line))
      .filter(line => !/^(def|class) /.test(line));
    return found.length ? found : bodies.filter(once).slice(0, 1);
  });
  return [...new Set(quoted)].map(line => `    ${line}`);
}

function wrapped(text) {
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    const longer = lines.at(-1).trim() ? `${lines.at(-1)} ${word}` : lines.at(-1) + word;
    if (longer.length <= 100 || !lines.at(-1).trim()) lines[lines.length - 1] = longer;
    else lines.push(`    ${word}`);
  }
  return lines.join("\n");
}

function coordinateLines(taken, names) {
  return names.flatMap(name => {
    const keys = MOVES.filter(move => data.compose.moves[move] === name);
    const said = keys.map(key => data.scripts[taken[key]].coordinates[name]);
    if (!said[0] || !(data.axes.includes(name) || taken[keys[0]] !== "grpo")) return [];
    const place =
      name === "length + std" ? said.map((half, i) => half.split(", ")[i]).join(", ") : said[0];
    return [`    ${name.padEnd(14)}${place}`];
  });
}

// ---- Its equations -----------------------------------------------------------------------------

const statedBy = script => partsOf[script].stated;
const entriesBefore = script =>
  Object.entries(statedBy(script)).filter(
    ([symbol]) => ![...partsOf[script].symbols, ...LEFT_OUT].includes(symbol),
  );

function withoutRemark(line) {
  const start = (line.match(/^\w+ +(?:=|<-) +/) || [""])[0].length;
  return line.slice(0, start) + line.slice(start).split(/ {3,}/)[0];
}

function stated(taken) {
  const ratioName =
    RATIOS.find(name => partsOf[taken.granularity].symbols.includes(name)) || "r_it";
  const k = statedBy(taken.kl).k_it;
  const kl = k ? [k.replaceAll("r_it", ratioName)] : [];
  const {correction} = partsOf[taken.sampler];
  const ofLoss = [
    ...ratioLines(taken),
    ...(correction ? [statedBy(taken.sampler)[correction]] : []),
    ...kl,
    ...lossLines(taken, kl.length, ratioName),
  ];
  requireDefined(ofLoss);
  const votes = taken.reward === "zoo.ttrl" ? [statedBy("zoo.ttrl").y] : [];
  let lines = [...votes, ...advantageLines(taken), ...ofLoss];
  for (const move of ["sampling", "tracker", "critic"]) lines.push(...statedBy(taken[move]).after);
  lines = [...new Set(lines)];
  if (taken.sampling === "dapo") {
    lines = lines.map(line => line.replaceAll("of reward components", "of components + R_len"));
  }
  const perToken = line =>
    "Lw".includes(line[0]) ? line.replaceAll("A_i", "A_it").replaceAll("A_itt", "A_it") : line;
  return data.compose.per_token.includes(taken.advantage) ? lines.map(perToken) : lines;
}

function advantageLines(taken) {
  const script = taken.advantage;
  const own = Object.fromEntries(entriesBefore(script));
  if (data.compose.own_baseline.includes(script)) return Object.values(own);
  const fresh = ["advantage", "std"]
    .map(move => taken[move])
    .find(name => !data.compose.merged.includes(name));
  let lines;
  if (script === "zoo.rloo") {
    lines = [own.A_i];
  } else if (fresh) {
    lines = wholeAdvantage(fresh, taken);
  } else {
    const ofStd = statedBy(taken.std === "zoo.rloo" ? "dr_grpo" : taken.std);
    const ofTurn = {...own, ...(own.S_ik ? turnWithoutItsStd(taken.std) : {})};
    lines = [
      ofStd.C_i,
      ofStd.A_i,
      ...["R_ik", "C_ik", "S_ik", "A_it"].map(name => ofTurn[name]),
    ].filter(Boolean);
  }
  const pays = "R_i: weighted sum of reward components";
  if (taken.kl === "zoo.rloo") {
    lines = [statedBy("zoo.rloo").R_i, ...lines.map(line => line.replaceAll(pays, "").trimEnd())];
  }
  if (taken.reward === "zoo.ttrl") {
    const agreed = statedBy("zoo.ttrl").A_i.split("   R_i").slice(1).join("   R_i");
    lines = lines.map(line => line.replaceAll(pays, `R_i${agreed}`));
  }
  return lines;
}

function turnWithoutItsStd(script) {
  const centred = `${"R_ik - mean".padEnd(47)}over the turns of the group in its state`;
  if (data.compose.undivided.includes(script)) return {S_ik: `S_ik = ${centred}`};
  if (script !== "zoo.reinforce_pp_baseline") return {};
  return {
    C_ik: `C_ik = ${centred}`,
    S_ik: `S_ik = ${"C_ik / std(C)".padEnd(47)}over all turns of the rollout`,
  };
}

function wholeAdvantage(script, taken) {
  const own = {
    advantage: partsOf[script].moved.includes("advantage"),
    std: ownMoves(script).includes("std"),
  };
  for (const [move, isOwn] of Object.entries(own)) {
    if (taken[move] !== (isOwn ? script : "grpo")) {
      const says = Object.entries(own)
        .map(([name, yes]) => `${yes ? "its own" : "the usual"} ${name}`)
        .join(" and ");
      refuse(
        `${fileOf(script)} states A for ${says}, not for ${fileOf(taken[move])}'s ${move}; no ` +
          "equation would be right: take them as it has them",
      );
    }
  }
  return entriesBefore(script).map(([, line]) => line);
}

function ratioLines(taken) {
  const script = taken.granularity === "grpo" ? taken.turns : taken.granularity;
  const clip = taken.clip_width;
  const names = partsOf[script].symbols.filter(name => script === clip || RATIOS.includes(name));
  const beside = partsOf[clip].symbols.filter(name => ![...names, ...RATIOS].includes(name));
  return [
    ...names.map(name => statedBy(script)[name]),
    ...beside.map(name => statedBy(clip)[name]),
  ];
}

function lossLines(taken, withKl, ratioName) {
  let outer = partsOf[taken.length].mean;
  let inner = partsOf[taken.clip_width].surrogate;
  if (!outer) refuse(`${fileOf(taken.length)}: its L has no sum_t: take another's length`);
  if (data.compose.one_each.includes(taken.sampling)) outer = outer.replaceAll("1/G", "1/P");
  if (taken.granularity !== taken.clip_width) inner = inner.replace(/s_i|r_it/g, ratioName);
  inner = `${partsOf[taken.sampler].correction} ${inner}`.trimStart();
  const lines = [`L    = ${outer} [ -${inner}`, withKl ? "+ beta k_it ]" : "]"];
  const made =
    lines.join(" ").length <= 94 ? [lines.join(" ")] : [lines[0], " ".repeat(7) + lines[1]];
  return outer.includes("1/T") ? [...made, `${" ".repeat(54)}T: token budget`] : made;
}

function requireDefined(lines) {
  const defined = lines.map(line => line.split(" ")[0]);
  for (const line of lines) {
    for (const [symbol] of line.matchAll(SYMBOL)) {
      if (!"AR".includes(symbol[0]) && !defined.includes(symbol)) {
        refuse(
          `the equation \`${withoutRemark(line)}\` uses ${symbol}, which nothing defines: ` +
            "its part goes with another ratio; name the axes to take",
        );
      }
    }
  }
}
