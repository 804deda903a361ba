// Numbers as people read them (the same as nif_lab.text), and the mark of each language.
// COLOURS and MARKS come before this text: live.py writes them from style.py.

const threeDigits = (x) => String(Number(x.toPrecision(3)));

function formatNs(ns) {
  for (const [unit, size] of [["ns", 1], ["µs", 1e3], ["ms", 1e6]]) {
    if (ns < 999.5 * size) return `${threeDigits(ns / size)} ${unit}`;
  }
  return `${threeDigits(ns / 1e9)} s`;
}

function formatBytes(count) {
  const units = ["B", "KiB", "MiB", "GiB"];
  for (const [power, unit] of units.entries()) {
    if (count < 999.5 * 1024 ** power) return `${threeDigits(count / 1024 ** power)} ${unit}`;
  }
  return `${threeDigits(count / 1024 ** 4)} TiB`;
}

const formatCount = (n) => Math.round(n).toLocaleString("en-US");

function formatRate(perSecond) {
  for (const [unit, size] of [["", 1], [" k", 1e3], [" M", 1e6]]) {
    if (perSecond < 999.5 * size) return threeDigits(perSecond / size) + unit;
  }
  return `${threeDigits(perSecond / 1e9)} G`;
}

const formatShare = (share) => `${(100 * share).toFixed(1)}%`;

const formatTime = (seconds) => new Date(1e3 * seconds).toLocaleTimeString([], { hour12: false });

const titleOf = (language) => language.charAt(0).toUpperCase() + language.slice(1);
const colourOf = (language) => COLOURS[language] ?? COLOURS[""];
const markOf = (language) => MARKS[language] ?? MARKS[""];

// Make an element: make("td", {className: "x"}, "text", child).
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// A language's name with its mark: colour and shape both say which.
function languageLabel(language) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 12 12");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("nif-mark");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", markOf(language));
  path.setAttribute("fill", colourOf(language));
  svg.append(path);
  return make("span", { className: "nif-language" }, svg, titleOf(language));
}

// Write a text only where it differs: the browser needn't lay out again what stays.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Fit a canvas to its box and clear it; returns what to draw with, in CSS pixels.
function beginDrawing(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  const ink = {
    text: style.getPropertyValue("--nif-text"),
    muted: style.getPropertyValue("--nif-muted"),
    line: style.getPropertyValue("--nif-line"),
    accent: style.getPropertyValue("--nif-accent"),
    bad: style.getPropertyValue("--nif-bad"),
    font: `11px ${style.fontFamily}`,
  };
  pen.font = ink.font;
  return { pen, width, height, scale, ink };
}
