// Call rate, p99 and errors of each language over time; drawn once a second.

const TREND_MS = 1000;
const GAP_S = 5; // while nobody looked, nothing is known: the line breaks

function trendView(hub) {
  const charts = [
    { label: "Calls per second", pick: (it) => it.rates, format: formatRate, errors: true },
    { label: "p99 of the last 5 s", pick: (it) => it.p99, format: formatNs },
  ].map((it) => ({ ...it, canvas: make("canvas", { className: "nif-spark" }), note: make("span", { className: "nif-muted" }) }));
  const boxes = charts.map(({ label, canvas, note }) => {
    canvas.setAttribute("role", "img");
    return make("div", {}, make("div", { className: "nif-hint" }, make("b", {}, label), " ", note), canvas);
  });
  let drawnAt = 0;

  function draw() {
    if (performance.now() < drawnAt + TREND_MS || !hub.trend.length) return;
    drawnAt = performance.now();
    for (const chart of charts) drawChart(chart);
  }

  function drawChart({ label, canvas, note, pick, format, errors }) {
    const { trend } = hub;
    const { pen, width, height, ink } = beginDrawing(canvas);
    const [top, base] = [4, height - 14];
    const [from, to] = [trend[0].time, Math.max(trend.at(-1).time, trend[0].time + 10)];
    const highest = Math.max(...trend.flatMap(pick), 0);
    const x = (time) => (width * (time - from)) / (to - from);
    const y = (value) => base - ((base - top) * value) / (highest || 1);
    pen.strokeStyle = ink.line;
    pen.strokeRect(0, base + 0.5, width, 0);
    if (errors) {
      pen.fillStyle = ink.bad;
      for (let i = 1; i < trend.length; i++) {
        if (trend[i].errors > trend[i - 1].errors) pen.fillRect(x(trend[i].time) - 1, base - 6, 2, 6);
      }
    }
    pen.lineWidth = 1.5;
    trend.at(-1).names.forEach((name, j) => {
      pen.strokeStyle = colourOf(name);
      pen.beginPath();
      trend.forEach((it, i) => {
        const point = [x(it.time), y(pick(it)[j] ?? 0)];
        if (i && it.time - trend[i - 1].time < GAP_S) pen.lineTo(...point);
        else pen.moveTo(...point);
      });
      pen.stroke();
    });
    pen.fillStyle = ink.muted;
    pen.fillText(formatTime(from), 0, height - 2);
    pen.textAlign = "right";
    pen.fillText(formatTime(to), width, height - 2);
    pen.textAlign = "left";
    const failed = errors && trend.at(-1).errors > trend[0].errors ? `; red: ${trend.at(-1).errors - trend[0].errors} errors` : "";
    setText(note, `${highest ? `highest: ${format(highest)}` : "none yet"}${failed}`);
    const last = trend.at(-1).names.map((name, j) => `${titleOf(name)} ${format(pick(trend.at(-1))[j] ?? 0)}`);
    canvas.setAttribute("aria-label", `${label} from ${formatTime(from)} to ${formatTime(to)}: now ${last.join(", ")}`);
  }

  return { element: make("div", { className: "nif-trend" }, ...boxes), draw };
}
