// ---- Curves ------------------------------------------------------------------------------------

const DASHES = ["", "8 4", "2 3", "9 3 2 3"];

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Round numbers, about four of them, from low to high.
function ticks(low, high) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map(x => x * power).find(x => x >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9; i++) {
    found.push(Number((i * step).toPrecision(10)));
  }
  return found;
}

// Mean of the seeds' points, point by point.
function meanOf(seeds) {
  const count = Math.min(...seeds.map(([x]) => x.length));
  const mean = (axis, i) => seeds.reduce((sum, seed) => sum + seed[axis][i], 0) / seeds.length;
  return [0, 1].map(axis => Array.from({length: count}, (_, i) => mean(axis, i)));
}

function stroke(index, width, opacity) {
  const style = `stroke: var(--line${index}); stroke-width: ${width}; opacity: ${opacity}`;
  return {fill: "none", style, "stroke-dasharray": opacity === 1 ? DASHES[index] : ""};
}

// lines: [{label, seeds: [[x, ...], [y, ...]] of each seed}]
function chart(title, xLabel, yLabel, lines) {
  const width = 400;
  const height = 260;
  const left = 52;
  const right = 12;
  const top = 12;
  const bottom = 40;
  const all = axis => lines.flatMap(({seeds}) => seeds.flatMap(seed => seed[axis]));
  const [x0, x1] = [Math.min(...all(0)), Math.max(...all(0))];
  const [y0, y1] = [Math.min(0, ...all(1)), Math.max(...all(1)) * 1.05];
  const atX = x => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
  const atY = y => height - bottom - ((y - y0) / (y1 - y0 || 1)) * (height - top - bottom);
  const path = ([x, y]) =>
    x.map((value, i) => `${atX(value).toFixed(1)},${atY(y[i]).toFixed(1)}`).join(" ");
  const picture = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title});
  const rule = {stroke: "currentColor", "stroke-width": 1, opacity: 0.5};
  picture.append(
    svg("path", {d: `M${left} ${top}V${height - bottom}H${width - right}`, fill: "none", ...rule}),
  );
  for (const x of ticks(x0, x1)) {
    picture.append(
      svg("text", {x: atX(x), y: height - bottom + 16, "text-anchor": "middle"}, String(x)),
    );
  }
  for (const y of ticks(y0, y1)) {
    picture.append(svg("text", {x: left - 6, y: atY(y) + 4, "text-anchor": "end"}, String(y)));
  }
  picture.append(
    svg("text", {x: (left + width) / 2, y: height - 6, "text-anchor": "middle"}, xLabel),
  );
  picture.append(
    svg(
      "text",
      {transform: `translate(13 ${height / 2 - 12}) rotate(-90)`, "text-anchor": "middle"},
      yLabel,
    ),
  );
  const means = lines.map(({seeds}) => meanOf(seeds));
  const shown = lines.map(() => true);
  const drawn = lines.map(({seeds}, index) =>
    svg(
      "g",
      {},
      ...seeds.map(seed => svg("polyline", {points: path(seed), ...stroke(index, 1, 0.35)})),
      svg("polyline", {points: path(means[index]), ...stroke(index, 2.5, 1)}),
    ),
  );
  const cursor = svg("line", {y1: top, y2: height - bottom, ...rule});
  picture.append(...drawn, cursor);

  // Values at a place of the x-axis, under the pointer or by the slider: each line's nearest point.
  const places = [...new Set(means.flatMap(([x]) => x))].sort((a, b) => a - b);
  const slider = element("input");
  const readout = element("p", "readout");
  Object.assign(slider, {type: "range", min: 0, max: places.length - 1, value: places.length - 1});
  slider.setAttribute("aria-label", `${title}: ${xLabel}`);
  function read() {
    const at = places[slider.value];
    const nearest = ([x]) =>
      x.reduce((best, value, i) => (Math.abs(value - at) < Math.abs(x[best] - at) ? i : best), 0);
    const said = means.flatMap(([x, y], i) =>
      shown[i] ? [`${lines[i].label} ${Number(y[nearest([x])].toPrecision(3))}`] : [],
    );
    const values = said.join(", ") || "no line is shown";
    readout.textContent = `${xLabel} ${Number(at.toPrecision(3))}: ${values}`;
    slider.setAttribute("aria-valuetext", readout.textContent);
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, atX(at));
  }
  picture.addEventListener("pointermove", event => {
    const box = picture.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    const gaps = places.map(place => Math.abs(atX(place) - x));
    slider.value = gaps.indexOf(Math.min(...gaps));
    read();
  });
  slider.addEventListener("input", read);
  const keys = lines.map(({label}, index) => {
    const sample = svg("svg", {viewBox: "0 0 44 12", "aria-hidden": true});
    sample.append(svg("line", {x1: 0, y1: 6, x2: 44, y2: 6, ...stroke(index, 3, 1)}));
    const key = button("", () => {
      shown[index] = !shown[index];
      key.setAttribute("aria-pressed", shown[index]);
      drawn[index].setAttribute("visibility", shown[index] ? "visible" : "hidden");
      read();
    });
    key.className = "key";
    key.setAttribute("aria-pressed", true);
    key.append(sample, label);
    return key;
  });
  read();
  return element(
    "figure",
    "",
    element("h3", "", title),
    picture,
    slider,
    readout,
    element("figcaption", "", ...keys),
  );
}

function drawCurves(left, right) {
  const shown = [...new Set([left, right])].filter(name => data.curves[name]);
  const of = what => shown.map(name => ({label: short(name), seeds: data.curves[name][what]}));
  const made = [];
  if (shown.length) {
    made.push(
      chart("held-out accuracy", "thousand tokens generated", "share right", of("accuracy")),
    );
    made.push(chart("length", "step", "tokens per completion", of("length")));
  }
  for (const name of shown) {
    const known = data.curves[name].known;
    if (known) {
      made.push(
        chart(`what ${short(name)} moves: ${known.title}`, "step", known.unit, known.lines),
      );
    }
  }
  const seeds = [...new Set(shown.map(name => data.curves[name].accuracy.length))].join(" or ");
  const note = shown.length
    ? `Thin: ${seeds} seeds; thick: their mean; from the committed logs.`
    : "No committed runs of these two.";
  by("charts").replaceChildren(...made, element("p", "note", note));
}
