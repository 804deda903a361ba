// A view's life: it draws when something changed and somebody can see it.

const VIEWS = { performance: performanceView, memory: memoryView, errors: errorsView, history: historyView };

function render({ model, el }) {
  const hub = hubOf(model);
  const still = make("div", { className: "nif-still", innerHTML: model.get("still") });
  const live = make("div", { className: "nif-parts", hidden: true });
  const details = make("div", { className: "nif-details", innerHTML: model.get("details") });
  el.classList.add("nif-live");
  el.dataset.view = model.get("view") || "bar";
  const part = VIEWS[model.get("view")]?.(live, hub, change);
  const bar = model.get("bar") ? statusBar(hub, model) : null;
  el.replaceChildren(...(bar ? [bar.element] : []), still, live, details);

  let frame = 0;
  let frames = 0;
  const view = { model, change, seen: false, picture: part?.picture };
  hub.setRate(model.get("rate"));

  function change() {
    if (view.seen) frame ||= requestAnimationFrame(draw);
  }

  function draw() {
    frame = 0;
    if (!view.seen) return;
    bar?.draw();
    el.dataset.path = hub.mode;
    el.toggleAttribute("data-stale", hub.silence > 0 || hub.mode === "ended" || hub.mode === "lost");
    if (hub.head && part) {
      const ready = part.draw() ?? true;
      still.hidden = ready;
      live.hidden = !ready;
      if (el.dataset.number !== String(hub.head.number)) el.dataset.frames = ++frames;
      el.dataset.number = hub.head.number;
      askForDetails(hub.head.number);
    }
  }

  // What only the kernel can make, it makes when it is free: one question at a time, and never more than 1 % of its time.
  let asked = false;
  let drawnFrom = 0;
  let notBefore = performance.now() + 1000;
  function askForDetails(number) {
    if (!details.innerHTML || asked || number === drawnFrom || performance.now() < notBefore) return;
    asked = true;
    drawnFrom = number;
    model.send({ ask: "details" });
  }

  const listeners = {
    "msg:custom": (content, buffers) => {
      for (const message of buffers ?? []) hub.receive(message);
      if ("cost" in content) {
        asked = false;
        notBefore = performance.now() + Math.max(1000, 1e5 * content.cost);
      }
    },
    "change:details": () => (details.innerHTML = model.get("details")),
    "change:still": () => (still.innerHTML = model.get("still")),
    "change:rate": () => hub.setRate(model.get("rate")),
    comm_live_update: () => setTimeout(() => el.closest(".jupyter-widgets-disconnected") && hub.gone()),
  };
  for (const [event, listener] of Object.entries(listeners)) model.on(event, listener);

  const sight = new IntersectionObserver((entries) => {
    view.seen = entries.at(-1).isIntersecting;
    hub.look();
    change();
  });
  sight.observe(el);
  const size = new ResizeObserver(() => {
    hub.look();
    change();
  });
  size.observe(el);
  const theme = new MutationObserver(() => {
    // The theme's style sheet comes later than its name; until then nothing has its size.
    setTimeout(() => (hub.look(), change()), 500);
  });
  theme.observe(document.body, { attributeFilter: ["data-jp-theme-light", "class"] });
  hub.attach(view);

  return () => {
    for (const watcher of [sight, size, theme]) watcher.disconnect();
    for (const [event, listener] of Object.entries(listeners)) model.off(event, listener);
    cancelAnimationFrame(frame);
    hub.detach(view);
  };
}

export default { render };
