// ---- The map -----------------------------------------------------------------------------------

const story = by("story"); // it moves about, and is out of the page at times
const short = name => data.scripts[name].file.replace("zoo/", "");

function drawMap() {
  const head = element("tr", "", element("th", "", "script"));
  for (const axis of data.axes) {
    const cell = element(
      "th",
      state.chosen === axis ? "chosen" : "",
      button(axis, () => choose(axis)),
    );
    cell.firstChild.setAttribute("aria-pressed", state.chosen === axis);
    head.append(cell);
  }
  head.append(element("th", "", "beside"));
  const told = element("tr", "told", element("td", "", story)); // below what was chosen
  told.firstChild.colSpan = data.axes.length + 2;
  const rows = names.map(name => {
    const title = element(
      "th",
      "",
      button("", () => choose(name)),
    );
    const pieces = short(name).split(/(?<=_)|(?=\.)/); // where a narrow screen may break it
    title.firstChild.append(...pieces.flatMap(piece => [piece, element("wbr")]));
    title.firstChild.setAttribute("aria-pressed", state.chosen === name);
    const row = element("tr", state.chosen === name ? "chosen" : "", title);
    data.axes.forEach((axis, index) => {
      const cell = marked("td", data.places[name][index].replace(/<\/?strong>/g, ""));
      if (data.scripts[name].moved.includes(axis)) cell.classList.add("moved");
      if (state.chosen === axis) cell.classList.add("chosen");
      row.append(cell);
    });
    row.append(element("td", "moved", data.places[name][data.axes.length]));
    return state.chosen === name ? [row, told] : [row];
  });
  if (data.axes.includes(state.chosen)) rows.unshift([told]);
  by("places").replaceChildren(
    element("table", "", element("thead", "", head), element("tbody", "", ...rows.flat())),
  );
  if (!told.isConnected) by("map").append(story);
}

// The story of an axis or a script, where it was pressed.
function tell(what) {
  state.chosen = what;
  story.replaceChildren(...(!what ? [] : data.scripts[what] ? scriptStory(what) : axisStory(what)));
  drawMap();
}

// A second press closes it; the button keeps the focus. A script's code is loaded with its story.
function choose(what) {
  const again = state.chosen === what;
  tell(again ? "" : what);
  if (data.scripts[what] && what !== "grpo" && !again) setPair(data.scripts[what].parent, what);
  const pressed = [...by("places").querySelectorAll("th button")].find(
    one => one.textContent === (data.scripts[what] ? short(what) : what),
  );
  pressed.focus({preventScroll: true});
  if (!again) story.scrollIntoView({block: "nearest"});
}

function axisStory(axis) {
  const movers = names.filter(name => data.scripts[name].moved.includes(axis));
  const items = movers.map(name => {
    const item = element(
      "span",
      "",
      button(short(name), () => choose(name)),
    );
    item.append(` ${data.scripts[name].coordinates[axis]}`);
    return item;
  });
  return [
    element("h3", "", axis),
    element("p", "", data.questions[axis]),
    element("p", "", `grpo.py: ${data.scripts.grpo.coordinates[axis]}. Moved by ${movers.length}:`),
    list(items),
  ];
}

function effectTable(rows) {
  const heads = ["measured", "before", "after", "difference", "95 %", "seeds"];
  const table = element(
    "table",
    "",
    element("tr", "", ...heads.map(head => element("th", "", head))),
  );
  for (const row of rows) {
    table.append(element("tr", "", ...row.map(cell => element("td", "", cell))));
  }
  const box = element("div", "scroll", table);
  box.tabIndex = 0;
  return box;
}

function scriptStory(name) {
  const entry = data.scripts[name];
  const parts = [element("h3", "", `${entry.method} (${entry.file})`)];
  for (const [title, text] of entry.story) {
    const paragraph = marked("p", text);
    paragraph.prepend(element("b", "", `${title}${title.endsWith("when") ? "" : "."} `));
    parts.push(paragraph);
  }
  if (partsOf[name]) {
    parts.push(
      button("move the axes from here", () => {
        chooseParts([name.split(".").pop()], "");
        by("axes").scrollIntoView();
        bundles[0].focus({preventScroll: true});
      }),
    );
  }
  if (name !== entry.parent) {
    parts.push(
      button(`its code against ${short(entry.parent)}`, () => showPair(entry.parent, name)),
    );
  }
  if (entry.effects.length) {
    parts.push(element("h3", "", "Measured, moving to it"), effectTable(entry.effects));
  }
  if (!entry.story.length) return parts;
  const flags = Object.entries(entry.flags).map(([library, cells]) => {
    const none = element("span", "note", "has no flag for it");
    const lines = cells.map(cell => marked("span", cell));
    return element("div", "", element("h3", "", library), lines.length ? list(lines) : none);
  });
  parts.push(element("div", "flags", ...flags));
  if (entry.questions.length) {
    parts.push(
      element("h3", "", "Questions that name it"),
      list(entry.questions.map(([html, address]) => link(address, html))),
    );
  }
  parts.push(element("p", "note", link(entry.page, `more on ${entry.page}`)));
  return parts;
}
