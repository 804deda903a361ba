// The figures as a table, which every update renews, and below it the picture that matplotlib draws of them. The picture
// comes later than the table; its place is kept free, and it says how old it is.

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
const BEHIND_S = 1; // a picture of figures that are older than that is an old one

// The size of the picture with all bars (nif_lab.live.grid draws it so): what is below keeps its place as bars come.
function pictureSize(room, cards) {
  const width = Math.min(Math.floor(room / 20) * 20, 966);
  const fit = Math.max(1, Math.min(Math.floor((width + GRID.gap) / (GRID.card + GRID.gap)), cards));
  const rows = Math.ceil(Math.max(cards, 1) / fit);
  return { width, height: rows * (GRID.head + GRID.row * GRID.bars + GRID.gap) - GRID.gap + GRID.foot };
}

function performanceView(root, hub, change) {
  const head = make("tr");
  const rows = FIGURES.map(([label]) => make("tr", {}, make("th", { scope: "row" }, label)));
  const table = make("table", { className: "nif-figures" }, make("thead", {}, head), make("tbody", {}, ...rows));
  const image = make("img", { className: "nif-picture", alt: "The figures of the table as cards, with bars of functions" });
  const note = make("div", { className: "nif-muted nif-hint nif-age" });
  const place = make("div", { className: "nif-place" }, image);
  const functions = functionsTable(hub, change);
  const trend = trendView(hub);
  root.append(make("div", { className: "nif-scroll" }, table), trend.element, note, place, functions.element);
  let shown = "";

  const room = () => root.parentElement.clientWidth;

  function columns(backends) {
    const names = backends.map((it) => it.name).join();
    if (names === shown) return;
    shown = names;
    head.replaceChildren(make("td"), ...backends.map((it) => make("th", { scope: "col" }, languageLabel(it.name))));
    for (const row of rows) row.replaceChildren(row.firstChild, ...backends.map(() => make("td")));
  }

  function draw() {
    const { backends } = hub.head;
    columns(backends);
    FIGURES.forEach(([label, text], i) => {
      backends.forEach((it, j) => {
        const cell = rows[i].children[j + 1];
        setText(cell, text(it));
        if (label.startsWith("error")) cell.classList.toggle("nif-bad", it.errors > 0);
      });
    });
    const isNarrow = room() < NARROW;
    place.hidden = note.hidden = isNarrow;
    if (!isNarrow) drawPicture(backends.length);
    functions.draw();
    trend.draw();
  }

  function drawPicture(cards) {
    const { picture } = hub;
    const { width, height } = pictureSize(room(), cards);
    place.style.height = `${height}px`;
    place.style.width = `${width}px`;
    image.hidden = !picture;
    if (picture && image.src !== picture.url) image.src = picture.url;
    // Of the other theme until the new one comes: its place stays, its glare doesn't.
    image.style.visibility = picture && picture.theme !== themeOf() ? "hidden" : "";
    const behind = picture ? hub.head.time - picture.time : 0;
    // One that was drawn before this page came, of the figures that are still the last, is no old one.
    const isOld = behind > BEHIND_S && picture.figures !== hub.head.figures;
    place.classList.toggle("nif-old", isOld);
    setText(note, !picture ? "The picture of these figures is being drawn."
      : isOld ? `The picture is ${behind.toFixed(0)} s older than the table.` : "");
  }

  // What the renderer is asked for: in the page's theme, as wide as there is room.
  function picture() {
    if (room() < NARROW) return null;
    return { theme: themeOf(), width: pictureSize(room(), 1).width, scale: devicePixelRatio || 1 };
  }

  return { draw, picture };
}
