const data = JSON.parse(document.getElementById("data").textContent);
for (const script of Object.values(data.scripts)) {
  script.lines = script.lines.map(index => data.lines[index]);
}
const names = Object.keys(data.scripts);
const by = id => document.getElementById(id);
const state = {
  hunks: [], // changes of the pair, and the one shown
  current: -1,
  chosen: "", // the script or axis whose story is open
  texts: [], // parts as compose takes them, or the preset that they are of
  preset: "",
  taken: {}, // {move: script} of them, and why compose refuses them
  refused: "",
  unfolded: innerWidth > 800, // their diff
  situation: "", // whose completions they were, and the sliders beyond the first three
  group: [],
  shown: [],
};

// ---- Building elements -------------------------------------------------------------------------

function element(tag, name, ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...children);
  return made;
}

function button(text, action) {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

// Text with markup, from our own docs: code, bold, italics.
function marked(tag, html) {
  const made = document.createElement(tag);
  made.innerHTML = html;
  return made;
}

function list(items) {
  return element("ul", "", ...items.map(item => element("li", "", item)));
}

function link(address, html) {
  const made = marked("a", html);
  made.href = address;
  return made;
}
