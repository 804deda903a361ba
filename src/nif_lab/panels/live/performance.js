// The picture that matplotlib draws of each language's figures, and the figures as a table. Where the room is narrow, or
// no picture comes, the table alone.

const FIGURES = [
  ["calls", (it) => formatCount(it.calls)],
  ["calls per s", (it) => formatRate(it.calls_per_s)],
  ["mean", (it) => (it.mean_ns ? formatNs(it.mean_ns) : "–")],
  ["p50", (it) => (it.p50_ns ? formatNs(it.p50_ns) : "–")],
  ["p99", (it) => (it.p99_ns ? formatNs(it.p99_ns) : "–")],
  ["errors", (it) => formatCount(it.errors)],
  ["error rate", (it) => (it.calls ? formatShare(it.error_rate) : "–")],
];

const themeOf = () => (document.body.dataset.jpThemeLight === "false" ? "dark" : "light");

const NARROW = 480; // pixels
const PATIENCE_MS = 3000; // until the first picture

function performanceView(root, hub, change) {
  const head = make("tr");
  const rows = FIGURES.map(([label]) => make("tr", {}, make("th", { scope: "row" }, label)));
  const table = make("table", { className: "nif-figures" }, make("thead", {}, head), make("tbody", {}, ...rows));
  const fold = make("details", { className: "nif-table" },
    make("summary", {}, "The figures as a table"), make("div", { className: "nif-scroll" }, table));
  const image = make("img", { className: "nif-picture", alt: "Figures of each language; the table below has them too" });
  root.append(image, fold);
  let shown = "";
  let since = 0;
  let pictured = null;

  const narrow = () => root.parentElement.clientWidth < NARROW;

  function columns(backends) {
    const names = backends.map((it) => it.name).join();
    if (names === shown) return;
    shown = names;
    head.replaceChildren(make("td"), ...backends.map((it) => make("th", { scope: "col" }, languageLabel(it.name))));
    for (const row of rows) row.replaceChildren(row.firstChild, ...backends.map(() => make("td")));
  }

  // Returns whether there is anything to show yet: what stood there first stays until the first picture comes.
  function draw() {
    const { backends } = hub.head;
    if (!since) {
      since = performance.now();
      setTimeout(change, PATIENCE_MS);
    }
    columns(backends);
    FIGURES.forEach(([label, text], i) => {
      backends.forEach((it, j) => {
        const cell = rows[i].children[j + 1];
        setText(cell, text(it));
        if (label.startsWith("error")) cell.classList.toggle("nif-bad", it.errors > 0);
      });
    });
    const picture = narrow() ? null : hub.picture;
    if (picture && image.src !== picture.url) {
      image.src = picture.url;
      image.style.width = `${picture.width / (devicePixelRatio || 1)}px`;
    }
    // Of the other theme until the new one comes: its place stays, its glare doesn't.
    image.style.visibility = picture && picture.theme !== themeOf() ? "hidden" : "";
    if (!!picture !== pictured) {
      pictured = !!picture;
      image.hidden = !picture;
      fold.open = !picture;
    }
    return pictured || narrow() || performance.now() - since >= PATIENCE_MS;
  }

  // What the renderer is asked for: in the page's theme, as wide as there is room.
  function picture() {
    if (narrow()) return null;
    const width = Math.min(Math.floor(root.parentElement.clientWidth / 20) * 20, 966);
    return { theme: themeOf(), width, scale: devicePixelRatio || 1 };
  }

  return { draw, picture };
}
