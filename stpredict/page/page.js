// The page's script begins here: its data, its elements, what all parts share, and start(), which the last line of the page calls.
// Text that comes from data becomes text nodes, never HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);

// Okabe and Ito's colours, darker or lighter where the paper asks for it, are in the style; dashes tell apart what shares a colour.
const COLOURS = 7;
const DASHES = ["", "7 4", "2 3"];
const GRAYS = ["6 4", "2 3", "10 3 2 3", "14 4", "4 2 1 2", "1.5 5"];
const MARKERS = ["circle", "square", "triangle", "diamond", "cross", "plus", "down", "ring", "box", "star"];

const OUTLINES = {
  circle: "M3 0A3 3 0 1 1 -3 0A3 3 0 1 1 3 0Z",
  ring: "M3 0A3 3 0 1 1 -3 0A3 3 0 1 1 3 0Z",
  square: "M-2.7-2.7H2.7V2.7H-2.7Z",
  box: "M-2.7-2.7H2.7V2.7H-2.7Z",
  triangle: "M0-3.6L3.3 2.4H-3.3Z",
  down: "M0 3.6L3.3-2.4H-3.3Z",
  diamond: "M0-3.8L3.4 0L0 3.8L-3.4 0Z",
  cross: "M-2.8-2.8L2.8 2.8M-2.8 2.8L2.8-2.8",
  plus: "M-3.4 0H3.4M0-3.4V3.4",
  star: "M-3.4 0H3.4M-1.7-2.9L1.7 2.9M-1.7 2.9L1.7-2.9",
};

// How a series is drawn: {class, dash, marker}; a baseline is gray, dashed and without markers.
function styleOf(number) {
  const { kind, place } = DATA.series[number];
  if (kind === "baseline") return { class: "series gray", dash: GRAYS[place % GRAYS.length], marker: null };
  const dash = DASHES[Math.floor(place / COLOURS) % DASHES.length];
  return { class: `series colour-${place % COLOURS}`, dash, marker: MARKERS[place % MARKERS.length] };
}

// Makes an element; attributes whose value is null or false are left out, functions listen, children are elements or texts.
function element(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function furnish(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function named(text) {
  return element("bdi", { class: "name", title: text.length > 24 ? text : null }, text);
}

function shortened(text, most) {
  const letters = [...text];
  return letters.length > most ? letters.slice(0, most - 1).join("") + "…" : text;
}

function markerOf(name, x, y) {
  return drawn("path", { class: `marker ${name}`, d: OUTLINES[name], transform: `translate(${x} ${y})` });
}

// A piece of the line that a series has in every plot.
function swatch(number) {
  const style = styleOf(number);
  const picture = drawn("svg", { class: "swatch", width: 30, height: 12, viewBox: "0 0 30 12", "aria-hidden": "true" });
  const group = drawn("g", { class: style.class }, drawn("path", { class: "line", d: "M1 6H29", "stroke-dasharray": style.dash || null }));
  if (style.marker) group.append(markerOf(style.marker, 15, 6));
  picture.append(group);
  return picture;
}

// A number for people: as many digits as `unit`, a step of an axis, tells apart; without one, four.
function spoken(value, unit = null) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  let text;
  if (unit) text = size >= 1e6 || (size > 0 && unit < 1e-5) ? value.toExponential(1) : value.toFixed(Math.max(0, Math.ceil(-Math.log10(unit) - 1e-9)));
  else text = size !== 0 && (size < 1e-4 || size >= 1e7) ? value.toExponential(3) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}

// Which predictors are shown: one choice for all plots and films of the page.
const choice = {
  hidden: new Set(),
  listeners: [],
  set(numbers, shown) {
    for (const number of numbers) {
      if (shown) choice.hidden.delete(number);
      else choice.hidden.add(number);
    }
    for (const listener of choice.listeners) listener();
  },
};

// Checkboxes for some series; they follow the choice, wherever it is made.
function chooser(numbers, label) {
  const boxes = numbers.map((number) => {
    const box = element("input", { type: "checkbox", change: () => choice.set([number], box.checked) });
    return { number, box, chip: element("label", { class: "chip" }, box, swatch(number), named(DATA.series[number].name)) };
  });
  const follow = () => boxes.forEach(({ number, box }) => (box.checked = !choice.hidden.has(number)));
  choice.listeners.push(follow);
  follow();
  const all = element("button", { type: "button", click: () => choice.set(numbers, true) }, "all");
  const none = element("button", { type: "button", click: () => choice.set(numbers, false) }, "none");
  return element("fieldset", { class: "chips" }, element("legend", {}, label), ...boxes.map(({ chip }) => chip), all, none);
}

function select(label, options, changed) {
  const list = element("select", { "aria-label": label, change: () => changed(Number(list.value)) });
  options.forEach((option, index) => list.append(element("option", { value: index }, option)));
  return { list, label: element("label", {}, `${label} `, list) };
}

function checkbox(label, checked, changed) {
  const box = element("input", { type: "checkbox", change: () => changed(box.checked) });
  box.checked = checked;
  return element("label", {}, box, ` ${label}`);
}

// Light or dark: as the system says, until the button says otherwise; remembered where the browser remembers anything.
function startTheme() {
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const say = () => (button.textContent = isDark() ? "Light" : "Dark");
  try {
    const stored = window.localStorage.getItem("stpredict-theme");
    if (stored === "dark" || stored === "light") document.documentElement.dataset.theme = stored;
  } catch {
    // Nothing is remembered here.
  }
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      window.localStorage.setItem("stpredict-theme", theme);
    } catch {
      // Nothing is remembered here.
    }
    say();
  });
  system.addEventListener("change", say);
  button.hidden = false;
  say();
}

function startCopying() {
  for (const box of document.querySelectorAll(".code")) {
    const text = box.querySelector("pre");
    const button = element("button", { type: "button", class: "copy" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        window.getSelection().selectAllChildren(text);
        button.textContent = "Selected";
      }
    });
    box.append(button);
  }
}

// On paper nothing can be unfolded.
function startPrinting() {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((part) => (part.open = true));
  });
  window.addEventListener("afterprint", () => opened.forEach((part) => (part.open = false)));
}

function start() {
  document.documentElement.classList.add("scripted");
  startTheme();
  startTables();
  startPlots();
  startFilms();
  startCopying();
  startPrinting();
}
