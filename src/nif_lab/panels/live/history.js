// The last calls as a chart: when, and on a logarithmic scale how long; colour and shape say which language.

const MARGIN = { left: 54, right: 10, top: 8, bottom: 22 };
const NEAR = 14; // pixels from the pointer to a call
const ROWS = 50; // of the table

// Round times between two instants, at most `count` of them.
function timeTicks(from, to, count) {
  const steps = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600, 21600, 86400];
  const step = steps.find((it) => (to - from) / it <= count) ?? 604800;
  const ticks = [];
  for (let i = Math.ceil(from / step); i * step <= to; i++) ticks.push(i * step);
  return { step, ticks };
}

// An instant as a time of the day, with as many digits as the step needs.
function formatInstant(time, step) {
  const digits = step >= 1 ? 0 : Math.min(6, Math.ceil(-Math.log10(step) - 1e-9));
  const fraction = digits ? (time % 1).toFixed(digits).slice(1) : "";
  return formatTime(time) + fraction;
}

function historyView(root, hub, change) {
  const legend = make("div", { className: "nif-legend" });
  const reset = make("button", { type: "button", onclick: () => zoom(null) }, "Show all");
  const canvas = make("canvas", { className: "nif-chart", tabIndex: 0 });
  const tip = make("div", { className: "nif-tip", hidden: true });
  const spoken = make("div", { className: "nif-unseen", ariaLive: "polite" });
  const band = make("div", { className: "nif-band", hidden: true });
  const hint = make("div", { className: "nif-muted nif-hint" },
    "Drag to zoom in, double-click to show all. With the chart focused: wheel or + and − zoom, 0 shows all, ← → tell each call.");
  const body = make("tbody");
  const columns = ["time", "function", "took", "outcome", "cell"].map((it) => make("th", { scope: "col" }, it));
  const running = make("div", { className: "nif-hint" });
  const table = make("details", { className: "nif-table", ontoggle: change },
    make("summary", {}, `The last ${ROWS} calls as a table`),
    make("div", { className: "nif-scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...columns)), body)));
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-roledescription", "scatter chart");
  root.append(make("div", { className: "nif-tools" }, legend, reset), running,
    make("div", { className: "nif-stage" }, canvas, band, tip), spoken, hint, table);

  let range = null; // [from, to] in seconds when zoomed
  let chosen = -1; // a call's row
  let points = { x: [], y: [] };
  let scale = null;

  const languageOf = (i) => hub.head.backends[hub.calls[2][i]]?.name ?? "";

  function describe(i) {
    const [start, duration, , name, status, cell] = hub.calls.map((column) => column[i]);
    const outcome = status ? `, failed` : "";
    const where = cell ? `, cell ${cell}` : "";
    return `${languageOf(i)}.${hub.names[name] ?? "?"}: ${formatNs(duration)}${outcome} at ${formatInstant(start, 1e-3)}${where}`;
  }

  function draw() {
    const [starts, durations, backends, , statuses] = hub.calls;
    const names = hub.head.backends.map((it) => it.name);
    if (legend.childElementCount !== names.length + 1) {
      legend.replaceChildren(...names.map(languageLabel), make("span", { className: "nif-muted" }, "hollow: failed"));
    }
    reset.disabled = !range;
    running.replaceChildren(...(hub.head.running ?? []).map((it) => make("div", {},
      `${it.backend}.${it.function} `, make("progress", { max: it.total, value: Math.min(it.done, it.total) }),
      ` ${it.done} of ${it.total}`)));
    drawTable();
    const { pen, width, height, scale: dense, ink } = beginDrawing(canvas);
    const right = width - MARGIN.right;
    const base = height - MARGIN.bottom;
    canvas.setAttribute("aria-label", `${starts.length} calls; arrow keys tell each`);
    if (!starts.length) {
      pen.fillStyle = ink.muted;
      pen.fillText("calls appear here", MARGIN.left, height / 2);
      return;
    }
    const whole = [starts.reduce((a, b) => Math.min(a, b)), starts.reduce((a, b) => Math.max(a, b))];
    let [from, to] = range ?? whole;
    if (to - from < 1e-6) [from, to] = [from - 5e-7, to + 5e-7];
    const positive = durations.filter((it) => it > 0);
    const low = 10 ** Math.floor(Math.log10(Math.min(...positive, 1e9)));
    const high = 10 ** Math.ceil(Math.log10(Math.max(...positive, low * 10)));
    const x = (time) => MARGIN.left + ((right - MARGIN.left) * (time - from)) / (to - from);
    const y = (ns) => base - ((base - MARGIN.top) * Math.log(Math.max(ns, low) / low)) / Math.log(high / low);
    scale = { whole, from, to, toTime: (at) => from + ((to - from) * (at - MARGIN.left)) / (right - MARGIN.left) };

    pen.strokeStyle = ink.line;
    pen.fillStyle = ink.muted;
    pen.lineWidth = 1;
    pen.textAlign = "right";
    pen.beginPath();
    for (let ns = low; ns <= high * 1.001; ns *= 10) {
      const at = Math.round(y(ns)) + 0.5;
      pen.moveTo(MARGIN.left, at);
      pen.lineTo(right, at);
      pen.fillText(formatNs(ns), MARGIN.left - 6, at + 4);
    }
    pen.stroke();
    pen.textAlign = "center";
    const { step, ticks } = timeTicks(from, to, Math.max(2, width / 130));
    for (const tick of ticks) {
      const half = pen.measureText(formatInstant(tick, step)).width / 2;
      if (x(tick) - half < MARGIN.left - 10 || x(tick) + half > width) continue;
      pen.fillText(formatInstant(tick, step), x(tick), height - 6);
      pen.fillRect(Math.round(x(tick)), base, 1, 4);
    }
    pen.textAlign = "left";

    points = { x: starts.map(x), y: durations.map(y) };
    const paths = names.map((it) => new Path2D(markOf(it)));
    for (let i = 0; i < starts.length; i++) {
      if (starts[i] < from || starts[i] > to) continue;
      place(pen, dense, i, 0.75);
      const colour = colourOf(names[backends[i]] ?? "");
      // A failed call is hollow.
      if (statuses[i]) {
        pen.strokeStyle = colour;
        pen.lineWidth = 2;
        pen.stroke(paths[backends[i]]);
      } else {
        pen.globalAlpha = 0.85;
        pen.fillStyle = colour;
        pen.fill(paths[backends[i]]);
        pen.globalAlpha = 1;
      }
    }
    if (chosen >= 0 && chosen < starts.length) {
      place(pen, dense, chosen, 1);
      pen.strokeStyle = ink.text;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(6, 6, 9, 0, 2 * Math.PI);
      pen.stroke();
    }
    pen.setTransform(dense, 0, 0, dense, 0, 0);
  }

  // Move the pen so that a mark of 12 x 12 has its middle at a call.
  function place(pen, dense, i, size) {
    const s = dense * size;
    pen.setTransform(s, 0, 0, s, dense * points.x[i] - 6 * s, dense * points.y[i] - 6 * s);
  }

  let tableAt = 0;
  function drawTable() {
    if (!table.open || performance.now() < tableAt + 1000) return;
    tableAt = performance.now();
    const count = hub.calls[0].length;
    const rows = [];
    for (let i = count - 1; i >= Math.max(0, count - ROWS); i--) {
      const [start, duration, , name, status, cell] = hub.calls.map((column) => column[i]);
      const cells = [formatInstant(start, 1e-3), `${languageOf(i)}.${hub.names[name] ?? "?"}`, formatNs(duration),
        status ? "✗ failed" : "✓ answered", cell || "–"];
      rows.push(make("tr", {}, ...cells.map((it) => make("td", {}, String(it)))));
    }
    body.replaceChildren(...rows);
  }

  function zoom(to) {
    range = to && scale && to[1] - to[0] < scale.whole[1] - scale.whole[0] ? to : null;
    choose(-1);
    change();
  }

  function zoomBy(factor, at) {
    if (scale) zoom([at - (at - scale.from) * factor, at + (scale.to - at) * factor]);
  }

  function choose(i) {
    if (i === chosen) return;
    chosen = i;
    tip.hidden = i < 0;
    if (i >= 0) {
      setText(tip, describe(i));
      tip.style.left = `${Math.min(points.x[i] + 12, canvas.clientWidth - tip.offsetWidth)}px`;
      tip.style.top = `${points.y[i] > canvas.clientHeight / 2 ? points.y[i] - tip.offsetHeight - 12 : points.y[i] + 12}px`;
    }
    change();
  }

  function nearest(x, y) {
    let [best, distance] = [-1, NEAR ** 2];
    for (let i = 0; i < points.x.length; i++) {
      const d = (points.x[i] - x) ** 2 + (points.y[i] - y) ** 2;
      if (d < distance) [best, distance] = [i, d];
    }
    return best;
  }

  let pressed = null;
  canvas.onpointerdown = (event) => {
    pressed = event.offsetX;
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => {
    if (pressed === null) {
      choose(nearest(event.offsetX, event.offsetY));
      return;
    }
    const [from, to] = [pressed, event.offsetX].sort((a, b) => a - b);
    band.hidden = to - from < 4;
    Object.assign(band.style, { left: `${from}px`, width: `${to - from}px` });
  };
  canvas.onpointerup = (event) => {
    const [from, to] = [pressed ?? event.offsetX, event.offsetX].sort((a, b) => a - b);
    if (to - from >= 4 && scale) zoom([scale.toTime(from), scale.toTime(to)]);
    pressed = null;
    band.hidden = true;
  };
  canvas.onpointerleave = () => choose(-1);
  canvas.ondblclick = () => zoom(null);
  // Only with the focus: else the wheel is the page's.
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas || !scale) return;
    event.preventDefault();
    zoomBy(event.deltaY > 0 ? 1.25 : 0.8, scale.toTime(event.offsetX));
  }, { passive: false });
  canvas.onkeydown = (event) => {
    const count = hub.calls?.[0].length ?? 0;
    const middle = scale ? (scale.from + scale.to) / 2 : 0;
    const actions = {
      "+": () => zoomBy(0.6, middle),
      "-": () => zoomBy(1 / 0.6, middle),
      0: () => zoom(null),
      Escape: () => choose(-1),
      ArrowLeft: () => choose(chosen < 0 ? count - 1 : Math.max(chosen - 1, 0)),
      ArrowRight: () => choose(chosen < 0 ? 0 : Math.min(chosen + 1, count - 1)),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey || !count) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has keys of its own
    actions[event.key]();
    if (chosen >= 0) setText(spoken, describe(chosen));
  };

  // Without a graphics card a drawing takes long, and its way to the screen takes as long again, which can't be measured here.
  // Such a chart is drawn three times a second. The last update is always drawn.
  let drawnAt = 0;
  let pause = 0;
  let later = 0;
  function pacedDraw() {
    const now = performance.now();
    clearTimeout(later);
    if (now < drawnAt + pause) {
      later = setTimeout(pacedDraw, drawnAt + pause - now);
      return;
    }
    draw();
    drawnAt = performance.now();
    pause = drawnAt - now > 4 ? 330 : 0;
  }

  return { draw: pacedDraw };
}
