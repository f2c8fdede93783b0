// ---- The pair ----------------------------------------------------------------------------------

// The address: the pair, and of the other two what is not as at first.
function writeHash() {
  const parts = [`${by("left").value}..${by("right").value}`];
  if (state.texts.length) parts.push(`axes=${choiceText().replaceAll(" ", "+")}`);
  if (groupText() !== "one_right") parts.push(`group=${groupText()}`);
  history.replaceState(null, "", `#${parts.join("&")}`);
}

function show() {
  const left = by("left").value;
  const right = by("right").value;
  writeHash();
  const told = data.scripts[state.chosen] && state.chosen;
  if (told && ![left, right].includes(told)) tell(right); // no story of another
  by("title").textContent = `${data.scripts[left].file} and ${data.scripts[right].file}`;
  drawCode(left, right);
  by("method").disabled = !data.scripts[right].quoted_at[0];
  about(by("about-left"), left, right, "left");
  about(by("about-right"), right, left, "right");
  drawCurves(left, right);
}

function setPair(left, right) {
  by("left").value = left;
  by("right").value = right;
  show();
}

function showPair(left, right) {
  setPair(left, right);
  by("code-section").scrollIntoView();
  by("next").focus({preventScroll: true});
}

function swap() {
  [by("left").value, by("right").value] = [by("right").value, by("left").value];
  show();
}

// Mail and course systems encode what an address holds.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// #grpo..gspo&axes=dapo+gspo&group=long_wrong in the address opens all that; each may be left out.
function open() {
  const [first, ...others] = decoded(location.hash.slice(1)).split("&");
  const given = Object.fromEntries(
    [first, ...others].map(part => part.split(/=(.*)/s)).filter(part => part.length > 1),
  );
  const [left, right] = first.split("..");
  const known = name => names.find(other => other === name || other === `zoo.${name}`);
  [state.texts, state.preset] = parsedChoice(given.axes || "");
  readGroup(given.group || "");
  by("left").value = known(left) || names[0];
  by("right").value = known(right) || "gspo";
  show();
  drawChoice();
  drawSliders();
  if (given.axes || given.group) by(given.group ? "group" : "axes").scrollIntoView();
}

for (const side of ["left", "right"]) {
  const zoo = element("optgroup");
  zoo.label = "zoo/";
  for (const name of names) {
    const place = name.startsWith("zoo.") ? zoo : by(side);
    place.append(new Option(short(name), name));
  }
  by(side).append(zoo);
  by(side).addEventListener("change", show);
}
by("swap").addEventListener("click", swap);
by("next").addEventListener("click", () => go(1));
by("previous").addEventListener("click", () => go(-1));
by("method").addEventListener("click", goToMethod);
addEventListener("hashchange", open);
addEventListener("keydown", event => {
  if (
    ["SELECT", "INPUT"].includes(event.target.tagName) ||
    event.ctrlKey ||
    event.metaKey ||
    event.altKey
  ) {
    return;
  }
  if (event.key === "n") go(1);
  else if (event.key === "p") go(-1);
  else if (event.key === "m") goToMethod();
  else if (event.key === "s") swap();
});
for (const section of document.querySelectorAll("main > section")) {
  const title = section.querySelector("h2").textContent || "Code";
  document.querySelector("nav").append(button(title, () => section.scrollIntoView()));
}
drawMap();
drawRows();
drawControls();
open();
