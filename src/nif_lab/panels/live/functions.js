// The functions that took most time as a table: searched by name, sorted by any column, renewed once a second while open.

const COLUMNS = [
  ["function", (it) => `${it.backend}.${it.function}`, (it) => it.name],
  ["lane", (it) => it.lane, (it) => it.lane],
  ["calls", (it) => it.calls, (it) => formatCount(it.calls)],
  ["calls per s", (it) => it.rate, (it) => formatRate(it.rate)],
  ["mean", (it) => it.mean_ns, (it) => (it.mean_ns ? formatNs(it.mean_ns) : "–")],
  ["total", (it) => it.mean_ns * it.calls, (it) => (it.mean_ns ? formatNs(it.mean_ns * it.calls) : "–")],
  ["errors", (it) => it.errors, (it) => formatCount(it.errors)],
];

function functionsTable(hub, change) {
  const search = make("input", { type: "search", placeholder: "Search", ariaLabel: "Search functions", oninput: now });
  const heads = COLUMNS.map(([label], i) => make("th", { scope: "col" },
    make("button", { type: "button", onclick: () => sortBy(i), title: `Sort by ${label}` }, label)));
  const body = make("tbody");
  const details = make("details", { className: "nif-table", ontoggle: now },
    make("summary", {}, "Functions that took most time"), search,
    make("div", { className: "nif-scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)));
  let column = 5;
  let descending = true;
  let drawnAt = 0;
  let before = new Map(); // calls of each at the last drawing
  let beforeAt = 0;

  function sortBy(i) {
    descending = i === column ? !descending : i > 1; // numbers from the largest, words from A
    column = i;
    now();
  }

  function now() {
    drawnAt = 0;
    change();
  }

  function draw() {
    if (!details.open || performance.now() < drawnAt + 1000) return;
    drawnAt = performance.now();
    const { time } = hub.head;
    const seconds = time - beforeAt;
    const all = hub.head.functions.map((it) => {
      const name = `${it.backend}.${it.function}`;
      const calls = it.calls - (before.get(`${name} ${it.lane}`) ?? it.calls);
      return { ...it, name, rate: seconds > 0 && seconds < 60 ? calls / seconds : 0 };
    });
    if (seconds > 0.9) {
      before = new Map(hub.head.functions.map((it) => [`${it.backend}.${it.function} ${it.lane}`, it.calls]));
      beforeAt = time;
    }
    const [, key] = COLUMNS[column];
    const order = (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (descending ? -1 : 1);
    const wanted = search.value.trim().toLowerCase();
    const shown = all.filter((it) => it.name.toLowerCase().includes(wanted)).sort(order);
    heads.forEach((it, i) => it.setAttribute("aria-sort", i !== column ? "none" : descending ? "descending" : "ascending"));
    body.replaceChildren(...shown.map((it) =>
      make("tr", {}, ...COLUMNS.map(([, , text]) => make("td", {}, String(text(it)))))));
  }

  return { element: details, draw };
}
