// What is in use now, and how it went.

const SIGNS = { normal: "✓", high: "▲", critical: "✖" };
const TILES = [
  ["in use", (it) => formatBytes(it.bytes)],
  ["blocks", (it) => formatCount(it.blocks)],
  ["peak", (it) => formatBytes(it.peak)],
  ["committed", (it) => formatBytes(it.committed)],
  ["collections", (it) => formatCount(it.collections)],
  ["pressure", (it) => `${SIGNS[it.pressure] ?? ""} ${it.pressure}`],
];

function memoryView(root, hub) {
  const values = TILES.map(() => make("dd"));
  const tiles = TILES.map(([label], i) => make("div", { className: "nif-tile" }, make("dt", {}, label), values[i]));
  const canvas = make("canvas", { className: "nif-spark" });
  canvas.setAttribute("role", "img");
  root.append(make("dl", { className: "nif-tiles" }, ...tiles), canvas);

  function draw() {
    const { memory } = hub.head;
    TILES.forEach(([, text], i) => setText(values[i], text(memory)));
    values.at(-1).dataset.level = memory.pressure;
    drawUse();
  }

  function drawUse() {
    const [times, bytes] = hub.samples ?? [[], []];
    const { pen, width, height, ink } = beginDrawing(canvas);
    const top = 16;
    const base = height - 16;
    pen.strokeStyle = ink.line;
    pen.beginPath();
    pen.moveTo(0, base + 0.5);
    pen.lineTo(width, base + 0.5);
    pen.stroke();
    pen.fillStyle = ink.muted;
    if (times.length < 2) {
      pen.fillText("bytes in use over time appear here", 0, top + 12);
      return;
    }
    const most = Math.max(...bytes, 1);
    const [from, to] = [times[0], times.at(-1)];
    const x = (time) => (width * (time - from)) / Math.max(to - from, 1e-9);
    const y = (value) => base - ((base - top) * value) / most;
    // Steps: between two samples nothing was known to change.
    pen.beginPath();
    pen.moveTo(x(times[0]), base);
    for (let i = 0; i < times.length; i++) {
      if (i) pen.lineTo(x(times[i]), y(bytes[i - 1]));
      pen.lineTo(x(times[i]), y(bytes[i]));
    }
    pen.strokeStyle = ink.accent;
    pen.lineWidth = 1.5;
    pen.stroke();
    pen.lineTo(width, base);
    pen.globalAlpha = 0.18;
    pen.fillStyle = ink.accent;
    pen.fill();
    pen.globalAlpha = 1;
    pen.fillStyle = ink.muted;
    pen.fillText(`highest: ${formatBytes(most)}`, 0, 11);
    pen.fillText(formatTime(from), 0, height - 3);
    pen.textAlign = "right";
    pen.fillText(formatTime(to), width, height - 3);
    pen.textAlign = "left";
    canvas.setAttribute("aria-label", `Bytes in use from ${formatTime(from)} to ${formatTime(to)}, ` +
      `highest ${formatBytes(most)}, now ${formatBytes(bytes.at(-1))}`);
  }

  return { draw };
}
