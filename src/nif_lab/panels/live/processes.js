// The processes of a Lab as a tree: all of them, each host, each process. The row that is chosen has its details below.

const HEADS = ["process", "calls", "calls/s", "mean", "p99", "errors", "recovered", "memory"];
const CALLS_KEPT = 200, LINES_SHOWN = 12;
const GONE_WORD = "gone since";

function table(heads, rows, caption) {
  const cell = (it, tag = "td") => make(tag, {}, it);
  return make("table", {},
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads.map((it) => cell(it, "th")))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((it) => cell(it))))));
}

const sum = (rows, name) => rows.reduce((total, it) => total + it[name], 0);

// What a group of processes has counted: counters are added, times can't be.
function group(rows) {
  const calls = sum(rows, "calls");
  return {
    calls, calls_per_s: sum(rows, "calls_per_s"), errors: sum(rows, "errors"), recovered: sum(rows, "recovered"),
    memory: sum(rows.filter((it) => !it.gone), "memory"),
    mean_ns: calls ? rows.reduce((total, it) => total + it.mean_ns * it.calls, 0) / calls : 0,
    gone: rows.every((it) => it.gone) ? Math.max(...rows.map((it) => it.gone)) : 0,
  };
}

function render({ model, el }) {
  el.classList.add("nif-live", "nif-processes");
  const still = make("div", { innerHTML: model.get("still") });
  const body = make("tbody");
  const tree = make("table", { className: "nif-tree" },
    make("thead", {}, make("tr", {}, ...HEADS.map((it) => make("th", { scope: "col" }, it)))), body);
  const details = make("div", { className: "nif-details" });
  const live = make("div", { hidden: true }, make("div", { className: "nif-scroll" }, tree), details);
  el.replaceChildren(still, live);

  const processes = new Map(), lines = new Map();
  let total = [], calls = [], chosen = "all", frame = 0;

  const name = (it) => `${it.title || "process"} ${it.pid}`;
  const nameOf = (number) => (processes.has(number) ? name(processes.get(number)) : "");

  function line(key, depth, text, figures) {
    let row = lines.get(key);
    if (!row) {
      const button = make("button", { type: "button", onclick: () => ((chosen = key), change()) });
      button.style.marginLeft = `${16 * depth}px`;
      row = { button, cells: HEADS.slice(1).map(() => make("td")) };
      row.element = make("tr", {}, make("th", { scope: "row" }, button), ...row.cells);
      row.element.dataset.key = key;
      lines.set(key, row);
    }
    const words = [
      formatCount(figures.calls), formatRate(figures.calls_per_s), figures.calls ? formatNs(figures.mean_ns) : "",
      figures.p99_ns ? formatNs(figures.p99_ns) : "", formatCount(figures.errors), formatCount(figures.recovered),
      formatBytes(figures.memory),
    ];
    setText(row.button, figures.gone ? `${text}, ${GONE_WORD} ${formatTime(figures.gone)}` : text);
    row.cells.forEach((it, i) => setText(it, words[i]));
    row.element.classList.toggle("nif-gone", figures.gone > 0);
    row.button.setAttribute("aria-pressed", String(chosen === key));
    return row.element;
  }

  function rowsOf(key) {
    const all = [...processes.values()];
    if (key === "all") return all;
    return all.filter((it) => key === `host ${it.host}` || key === `process ${it.number}`);
  }

  function draw() {
    frame = 0;
    const all = [...processes.values()].sort((a, b) => a.number - b.number);
    if (!all.length) return;
    still.hidden = true;
    live.hidden = false;
    const hosts = Map.groupBy ? Map.groupBy(all, (it) => it.host) : grouped(all);
    const alive = all.filter((it) => !it.gone).length;
    const gone = all.length - alive;
    const shown = [line("all", 0, `all: ${alive} process${alive === 1 ? "" : "es"}` + (gone ? `, ${gone} gone` : ""),
      { ...group(all), gone: 0 })];
    for (const [host, rows] of hosts) {
      shown.push(line(`host ${host}`, 1, rows[0].machine, group(rows)));
      for (const it of rows) shown.push(line(`process ${it.number}`, 2, name(it), it));
    }
    shown.forEach((it, i) => body.children[i] !== it && body.insertBefore(it, body.children[i] ?? null));
    while (body.children.length > shown.length) body.lastChild.remove();
    drawDetails();
  }

  function grouped(all) {
    const hosts = new Map();
    for (const it of all) hosts.set(it.host, [...(hosts.get(it.host) ?? []), it]);
    return hosts;
  }

  function drawDetails() {
    const rows = rowsOf(chosen);
    const numbers = new Set(rows.map((it) => it.number));
    const functions = chosen === "all" ? total : rows.length === 1 ? rows[0].functions : [];
    const failures = rows.flatMap((it) => it.failures.map((failure) => [...failure, name(it)]));
    failures.sort((a, b) => b[0] - a[0]);
    const last = calls.filter((it) => numbers.has(it[1])).slice(-LINES_SHOWN).reverse();
    const parts = [];
    if (functions.length) {
      parts.push(table(["function", "lane", "calls", "mean", "p99", "errors"], functions.map(
        ([backend, f, lane, count, errors, , mean, p99]) =>
          [`${backend}.${f}`, lane, formatCount(count), formatNs(mean), formatNs(p99), formatCount(errors)]), "functions"));
    }
    if (failures.length) {
      parts.push(table(["time", "process", "function", "what"], failures.slice(0, LINES_SHOWN).map(
        ([time, backend, f, text, where]) => [formatTime(time), where, `${backend}.${f}`, text]), "last errors, and what was done"));
    }
    if (last.length) {
      parts.push(table(["time", "process", "function", "took"], last.map(
        ([time, number, backend, f, ns, status]) =>
          [formatTime(time), nameOf(number), `${backend}.${f}`, status || formatNs(ns)]), "last calls"));
    }
    details.replaceChildren(...parts);
  }

  const change = () => { frame ||= requestAnimationFrame(draw); };

  function take(content, buffers) {
    const update = JSON.parse(new TextDecoder().decode(buffers[0]));
    if (update.whole) processes.clear();
    for (const it of update.processes) processes.set(it.number, it);
    total = update.total;
    calls = [...calls, ...update.calls].slice(-CALLS_KEPT);
    change();
  }

  model.on("msg:custom", take);
  const eye = new IntersectionObserver(([it]) => model.send({ ask: it.isIntersecting ? "updates" : "silence" }));
  eye.observe(el);
  const beat = setInterval(() => el.offsetParent && model.send({ ask: "updates" }), 10_000); // the kernel may be another
  return () => {
    eye.disconnect();
    clearInterval(beat);
    model.off("msg:custom", take);
  };
}

export default { render };
