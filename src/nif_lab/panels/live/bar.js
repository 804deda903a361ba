// The line that says how the figures come and how often, with the rate's chooser and the pause button. Both act in the
// browser, so they work while a cell runs.

const RATES = [1, 3, 10, 30];

function statusOf(hub) {
  if (hub.mode === "connecting") return ["…", "connecting"];
  const since = hub.head ? `; these figures are from ${formatTime(hub.head.time)}` : "";
  if (hub.mode === "ended") return ["■", `the kernel has ended${since}`];
  if (hub.mode === "lost") return ["↻", `connection lost, trying again${since}`];
  const way = `through the ${hub.mode}`;
  if (hub.paused) return ["❚❚", `paused${since}`];
  if (hub.silence && hub.head) return ["○", `no message for ${Math.floor(hub.silence)} s${since}`];
  if (!hub.head) return ["…", `waiting for the first figures ${way}`];
  const hertz = hub.hertz;
  return ["●", hertz ? `live ${way}, ${hertz.toFixed(1)} Hz` : `live ${way}, nothing new since ${formatTime(hub.head.time)}`];
}

function statusBar(hub, model) {
  const dot = make("span", { className: "nif-dot", ariaHidden: "true" });
  // Not a live region: a screen reader would read every change of the rate.
  const status = make("span", { className: "nif-status" });
  const rate = make("select", { ariaLabel: "Updates per second", title: "How often the figures are renewed" });
  for (const hertz of new Set([...RATES, model.get("rate")].sort((a, b) => a - b))) {
    rate.append(make("option", { value: hertz }, `${hertz} Hz`));
  }
  rate.onchange = () => {
    hub.setRate(Number(rate.value));
    model.set("rate", hub.rate);
    model.save_changes();
  };
  const pause = make("button", { type: "button" });
  pause.onclick = () => hub.setPaused(!hub.paused);
  const draw = () => {
    const [sign, text] = statusOf(hub);
    setText(dot, sign);
    setText(status, text);
    setText(pause, hub.paused ? "Resume" : "Pause");
    if (document.activeElement !== rate) rate.value = hub.rate;
  };
  draw();
  return { element: make("div", { className: "nif-bar" }, dot, status, rate, pause), draw };
}
