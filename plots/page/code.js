// ---- Code --------------------------------------------------------------------------------------

// One line of a script; `marks` are changed spans [begin, end].
function cell(script, index, side, marks) {
  const text = element("span", "text");
  if (index < 0) return element("div", `cell ${side} empty`, element("span", "number"), text);
  let at = 0;
  for (const [kind, part] of data.scripts[script].lines[index]) {
    const cuts = [0, part.length];
    for (const span of marks) {
      for (const x of span) if (x > at && x < at + part.length) cuts.push(x - at);
    }
    cuts.sort((a, b) => a - b);
    for (let i = 0; i + 1 < cuts.length; i++) {
      const begin = at + cuts[i];
      const piece = part.slice(cuts[i], cuts[i + 1]);
      const changed = marks.some(([from, to]) => from <= begin && begin < to);
      text.append(element(changed ? "mark" : "span", kind, piece));
    }
    at += part.length;
  }
  const made = element("div", `cell ${side}`, element("span", "number", String(index + 1)), text);
  made.id = `${side}-${index + 1}`;
  return made;
}

function line(left, right, i, j, marksLeft, marksRight) {
  return element(
    "div",
    "row",
    cell(left, i, "left", marksLeft),
    cell(right, j, "right", marksRight),
  );
}

// Equal lines: some around a change, the rest folded.
function equal(left, right, [i, j, count], first, last) {
  const around = 3;
  const made = element("div", "plain");
  const rows = [];
  for (let x = 0; x < count; x++) rows.push(line(left, right, i + x, j + x, [], []));
  const head = first ? 0 : around;
  const tail = last ? 0 : around;
  if (count <= head + tail + 3) {
    made.append(...rows);
    return made;
  }
  const folded = rows.slice(head, count - tail);
  const details = element(
    "details",
    "",
    element("summary", "", `${folded.length} equal lines`),
    ...folded,
  );
  made.append(...rows.slice(0, head), details, ...rows.slice(count - tail));
  return made;
}

function hunk(left, right, block) {
  const made = element("section", "hunk", element("div", "label", block.label));
  made.tabIndex = -1;
  made.append(...block.rows.map(row => line(left, right, ...row)));
  return made;
}

// Blocks of two scripts; the page holds each pair in one order.
function pair(left, right) {
  const turned = block =>
    block.equal
      ? {docstring: block.docstring, equal: [block.equal[1], block.equal[0], block.equal[2]]}
      : {
          docstring: block.docstring,
          label: block.label,
          rows: block.rows.map(([i, j, marksLeft, marksRight]) => [j, i, marksRight, marksLeft]),
        };
  if (left === right) return [{equal: [0, 0, data.scripts[left].lines.length]}];
  return data.pairs[`${left}..${right}`] || data.pairs[`${right}..${left}`].map(turned);
}

// The docstring is folded into one line: the page shows code first, and equations below.
function drawCode(left, right) {
  const blocks = pair(left, right);
  const docstring = element("details", "docstring", element("summary", "", "docstrings"));
  const code = [];
  blocks.forEach((block, index) => {
    const made = block.equal
      ? equal(
          left,
          right,
          block.equal,
          index === 0 || blocks[index - 1].docstring,
          index === blocks.length - 1,
        )
      : hunk(left, right, block);
    if (block.docstring) docstring.append(made);
    else code.push(made);
  });
  by("code").replaceChildren(...(docstring.childElementCount > 1 ? [docstring] : []), ...code);
  state.hunks = code.filter(block => block.className === "hunk");
  state.hunks.forEach((block, index) =>
    block.setAttribute(
      "aria-label",
      `change ${index + 1} of ${state.hunks.length}: ${block.firstChild.textContent}`,
    ),
  );
  state.current = -1;
  by("where").textContent = state.hunks.length
    ? `${state.hunks.length} change${state.hunks.length > 1 ? "s" : ""}`
    : "no change";
}

function go(step) {
  const count = state.hunks.length;
  if (!count) return;
  state.current = (state.current + step + count + (state.current < 0 && step < 0 ? 1 : 0)) % count;
  const block = state.hunks[state.current];
  block.focus({preventScroll: true});
  block.scrollIntoView({block: "center"});
  by("where").textContent =
    `change ${state.current + 1} of ${count}: ${block.firstChild.textContent}`;
}

// To a line of the left or right script, whatever it is folded into.
function reveal(side, number) {
  let found = by(`${side}-${number}`);
  for (let box = found.parentElement; box; box = box.parentElement) {
    if (box.tagName === "DETAILS") box.open = true;
  }
  // On a narrow screen equal lines stand once, on the left.
  if (!found.offsetParent && side === "right") found = found.previousSibling;
  found.tabIndex = -1;
  found.focus({preventScroll: true});
  found.scrollIntoView({block: "center"});
}

function goToMethod() {
  const entry = data.scripts[by("right").value];
  const at = entry.quoted_at[0];
  if (!at) return;
  reveal("right", at);
  by("where").textContent = `the method: line ${at} of ${entry.file}`;
}

// ---- Equations and coordinates -----------------------------------------------------------------

// A button for each line of a docstring, which leads to its line of the code; 0 is no line.
function lineButtons(script, side, texts, places, against) {
  const made = texts.map((text, index) => {
    const at = places[index];
    const line = button(text || " ", () => reveal(side, at));
    if (!against.includes(text)) line.className = "differs";
    line.disabled = !at;
    if (at) {
      line.title = `line ${at} of ${data.scripts[script].file}`;
      line.setAttribute("aria-label", `${text}, ${line.title}`);
    }
    return line;
  });
  return element("pre", "", ...made);
}

function about(place, script, other, side) {
  const entry = data.scripts[script];
  const against = data.scripts[other];
  const table = element("table");
  const shown = data.axes
    .concat(data.extras)
    .filter(axis => axis in entry.coordinates || axis in against.coordinates);
  for (const axis of shown) {
    const moved = entry.coordinates[axis] !== against.coordinates[axis];
    table.append(
      element(
        "tr",
        moved ? "differs" : "",
        element("th", "", axis),
        element("td", "", entry.coordinates[axis] || "–"),
      ),
    );
  }
  const symbols = element("dl");
  for (const [symbol, meaning] of entry.symbols) {
    symbols.append(element("dt", "", symbol), element("dd", "", meaning));
  }
  const folded = element("details", "", element("summary", "", "symbols"), symbols);
  folded.open = true;
  const method = lineButtons(script, side, entry.quoted, entry.quoted_at, against.quoted);
  method.className = "method";
  place.replaceChildren(
    element("h3", "", `${entry.title} (${entry.file})`),
    lineButtons(script, side, entry.equations, entry.computed, against.equations),
    ...(entry.quoted.length ? [element("h4", "", "The method in code"), method] : []),
    folded,
    table,
  );
}
