const data = JSON.parse(document.getElementById("data").textContent);
for (const script of Object.values(data.scripts)) {
  script.lines = script.lines.map(index => data.lines[index]);
}
const names = Object.keys(data.scripts);
const by = id => document.getElementById(id);
const state = {
  hunks: [],
  current: -1,
  chosen: "", // changes of the pair, the one shown; the script or axis whose story is open
  texts: [],
  preset: "",
  taken: {},
  refused: "", // parts as compose takes them, {move: script}, why it refuses them
  situation: "",
  group: [],
  shown: [],
  unfolded: innerWidth > 800, // the composition's diff // completions, and the sliders beyond the first three
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
