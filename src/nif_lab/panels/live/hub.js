// One connection for all views of a page that show the same Lab: by the server's WebSocket where nif_lab.server is
// installed, else by the kernel's comm. docs/messages.md has the messages.

const CALLS_KEPT = 1000;
const SAMPLES_KEPT = 600;
const ERRORS_KEPT = 100;
const TREND_KEPT = 300; // seconds
const STALE_MS = 2000; // without a message for so long, the figures aren't the newest
const BROKEN_MS = 6000; // without one for so long, another connection is made
const TRIES = 30; // a second apart, before the kernel is asked instead
const OPEN_MS = 1500; // a socket that isn't open by then isn't there
const ASK_MS = 10000; // so often the kernel is told that somebody still looks
const QUIET_MS = 1500; // without an update for so long, nothing is new

// Split a message into its JSON head and the bytes behind it.
function decode(message) {
  const view = ArrayBuffer.isView(message) ? message : new DataView(message);
  const { buffer, byteOffset, byteLength } = view;
  const length = new DataView(buffer, byteOffset).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, byteOffset + 4, length)));
  const rest = buffer.slice(byteOffset + Math.ceil((4 + length) / 8) * 8, byteOffset + byteLength);
  return { head, rest };
}

// Append columns to columns, keeping the last rows.
function appended(old, fresh, kept) {
  return fresh.map((column, i) => {
    const before = old?.[i] ?? [];
    const all = new Float64Array(before.length + column.length);
    all.set(before);
    all.set(column, before.length);
    return all.slice(-kept);
  });
}

// The page's server, or null where there is none (VS Code, Colab, a saved page).
function serverOf() {
  try {
    const config = JSON.parse(document.getElementById("jupyter-config-data").textContent);
    const base = new URL(config.baseUrl ?? "/", location.href);
    base.protocol = base.protocol.replace("http", "ws");
    return { base: base.href, token: config.token ?? "" };
  } catch {
    return null;
  }
}

class Hub {
  constructor(kernel, lab, path) {
    Object.assign(this, { kernel, lab, path, mode: "connecting", paused: false, rate: 10, tries: 0 });
    this.views = new Set();
    this.wanted = null; // picture
    this.head = null; // of the last update
    this.names = [];
    this.calls = null; // columns of the last calls
    this.samples = null; // columns of the memory's samples
    this.errors = [];
    this.trend = []; // of each second: time, and of each language call rate, p99 and errors
    this.picture = null; // {url, width, height}
    this.arrivals = [];
    this.looked = false;
    this.heard = performance.now(); // when the last message came
    document.addEventListener("visibilitychange", () => this.look());
    addEventListener("online", () => this.online());
    this.clock = setInterval(() => this.check(), 500);
    this.connect();
  }

  // ---- who looks

  attach(view) {
    this.views.add(view);
    this.look();
  }

  detach(view) {
    this.views.delete(view);
    if (view.model === this.asked) this.asked = null;
    this.look();
    // Moving an output in the page takes its view away for a moment.
    setTimeout(() => this.views.size || this.close(), 1000);
  }

  get visible() {
    return !this.paused && document.visibilityState === "visible" && [...this.views].some((it) => it.seen);
  }

  // Seconds without a message while somebody looks; 0 below two.
  get silence() {
    const ms = performance.now() - this.heard;
    return this.visible && ms > STALE_MS && ["server", "kernel", "lost"].includes(this.mode) ? ms / 1000 : 0;
  }

  check() {
    const { silence } = this;
    if (JSON.stringify(this.wish()) !== this.pictured) this.look(); // a page that has settled tells nobody
    if (this.mode === "server" && silence * 1000 > BROKEN_MS) this.abandon();
    if (silence || this.wasSilent) this.tell();
    this.wasSilent = silence > 0;
  }

  // The picture that is wanted, or null.
  wish() {
    const drawn = [...this.views].find((it) => it.seen && it.picture);
    return this.visible && drawn ? drawn.picture() : null;
  }

  // Tell the other side whether anybody looks, and at what.
  look() {
    const { visible } = this;
    if (visible && !this.looked) this.heard = performance.now(); // nothing was sent while nobody looked
    this.wanted = this.wish();
    const pictured = JSON.stringify(this.wanted);
    if (this.mode === "server") {
      if (visible !== this.looked) this.say({ visible });
      if (pictured !== this.pictured) this.say({ picture: this.wanted });
    } else if (this.mode === "kernel") {
      const other = visible && (!this.asked || pictured !== this.pictured);
      if (visible !== this.looked || other) this.ask(visible);
    }
    Object.assign(this, { looked: visible, pictured });
    this.tell();
  }

  setRate(rate) {
    if (rate === this.rate) return;
    this.rate = rate;
    if (this.mode === "server") this.say({ rate });
    this.tell();
  }

  setPaused(paused) {
    this.paused = paused;
    this.look();
  }

  // ---- the server's path

  connect() {
    const server = this.path === "comm" || !this.kernel ? null : serverOf();
    if (!server) {
      this.useKernel();
      return;
    }
    const query = new URLSearchParams({ kernel: this.kernel, lab: this.lab, rate: this.rate });
    if (server.token) query.set("token", server.token);
    const socket = new WebSocket(`${server.base}nif_lab/live?${query}`);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    const late = setTimeout(() => socket.close(), OPEN_MS);
    let opened = false;
    socket.onopen = () => {
      clearTimeout(late);
      if (this.socket !== socket) return;
      opened = true;
      Object.assign(this, { mode: "server", tries: 0, pictured: "null", looked: true });
      this.look();
    };
    socket.onmessage = ({ data }) => this.receive(data);
    socket.onclose = ({ code }) => {
      clearTimeout(late);
      if (this.closed || this.socket !== socket) return;
      if (code === 1001) this.become("ended");
      else if ((opened || this.tries) && code < 4000) this.retry();
      else this.useKernel();
    };
  }

  // A connection that was there and broke: the server may come back.
  retry() {
    if (this.tries++ > TRIES) {
      this.useKernel();
      return;
    }
    this.become("lost");
    clearTimeout(this.next_try);
    this.next_try = setTimeout(() => this.closed || this.connect(), this.tries > 1 ? 1000 : 300);
  }

  // A connection whose messages don't arrive: its end would be noticed minutes later.
  abandon() {
    const { socket } = this;
    this.socket = null;
    socket.close();
    this.retry();
  }

  // The computer has its network again.
  online() {
    if (this.closed) return;
    if (this.mode === "lost" || (this.mode === "server" && this.silence) || this.tries > TRIES) {
      clearTimeout(this.next_try);
      const { socket } = this;
      this.connect();
      socket?.close();
    }
  }

  // The kernel's widgets are cut off.
  gone() {
    if (this.mode === "kernel") this.become("ended");
  }

  say(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  // ---- the kernel's path

  useKernel() {
    Object.assign(this, { looked: false, asked: null });
    this.become("kernel");
    this.look();
    this.asking ??= setInterval(() => this.mode === "kernel" && this.visible && this.ask(true), ASK_MS);
  }

  ask(visible) {
    const [first] = this.views;
    this.asked ??= first?.model;
    this.asked?.send(visible ? { ask: "updates", picture: this.wanted } : { visible: false });
  }

  // ---- what arrives

  receive(message) {
    const { head, rest } = decode(message);
    this.heard = performance.now();
    if (head.kind === "picture") this.show(head, rest);
    else if (head.kind === "update") this.update(head, rest);
    else if (!this.wasSilent) return; // nothing to draw
    this.tell();
  }

  update(head, rest) {
    this.head = head;
    this.names = head.names ?? this.names;
    let at = 0;
    const columns = ({ rows, columns: names }) =>
      names.map(() => new Float64Array(rest, (at += 8 * rows) - 8 * rows, rows));
    const { history, memory } = head.tables;
    const calls = columns(history);
    const samples = columns(memory);
    // A feed's first update has all; after a gap the older calls are no neighbours of the new ones.
    const anew = head.number === 1;
    this.calls = appended(anew || history.first > this.next ? null : this.calls, calls, CALLS_KEPT);
    this.samples = appended(anew ? null : this.samples, samples, SAMPLES_KEPT);
    this.next = history.first + history.rows;
    const last = this.errors.at(-1)?.time ?? 0;
    this.errors = [...this.errors, ...head.errors.filter((it) => it.time > last)].slice(-ERRORS_KEPT);
    if (head.time - (this.trend.at(-1)?.time ?? 0) >= 1) {
      const [names, rates, p99] = ["name", "calls_per_s", "recent_p99_ns"].map((key) => head.backends.map((it) => it[key]));
      const failed = head.backends.reduce((sum, it) => sum + it.errors, 0);
      this.trend = [...this.trend, { time: head.time, names, rates, p99, errors: failed }].slice(-TREND_KEPT);
    }
    const now = performance.now();
    this.arrivals = [...this.arrivals.filter((it) => now - it < 2000), now];
    clearTimeout(this.quiet);
    this.quiet = setTimeout(() => {
      this.arrivals = [];
      this.tell();
    }, QUIET_MS);
  }

  show(head, rest) {
    const url = URL.createObjectURL(new Blob([rest], { type: head.mime }));
    if (this.picture) URL.revokeObjectURL(this.picture.url);
    this.picture = { ...head, url };
  }

  // Updates a second, over the last two seconds.
  get hertz() {
    const { arrivals } = this;
    return arrivals.length > 2 ? (1e3 * (arrivals.length - 1)) / (arrivals.at(-1) - arrivals[0]) : 0;
  }

  become(mode) {
    this.mode = mode;
    this.tell();
  }

  tell() {
    for (const view of this.views) view.change();
  }

  close() {
    this.closed = true;
    clearInterval(this.asking);
    clearInterval(this.clock);
    clearTimeout(this.next_try);
    clearTimeout(this.quiet);
    this.socket?.close();
    if (this.picture) URL.revokeObjectURL(this.picture.url);
    HUBS.delete(`${this.kernel} ${this.lab} ${this.path}`);
  }
}

// Each widget imports this text as a module of its own; what they share hangs on the page.
const HUBS = (globalThis[Symbol.for("nif_lab.live")] ??= new Map());

function hubOf(model) {
  const [kernel, lab, path] = ["kernel", "lab", "path"].map((name) => model.get(name));
  const key = `${kernel} ${lab} ${path}`;
  if (!HUBS.has(key)) HUBS.set(key, new Hub(kernel, lab, path));
  return HUBS.get(key);
}
