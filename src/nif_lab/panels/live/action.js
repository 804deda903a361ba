// A button whose click is answered here at once: "queued" until the kernel has taken it, "running" until it is done.
// Without its kernel it is disabled.

const GONE = "The kernel has ended or was restarted. Run the cell again.";
const WORDS = { idle: "", running: "running …", done: "", failed: "failed" };

function render({ model, el }) {
  el.classList.add("nif-action");
  const button = document.createElement("button");
  button.type = "button";
  const status = document.createElement("span");
  status.setAttribute("role", "status");
  const stop = document.createElement("button");
  stop.type = "button";
  stop.textContent = "Stop";
  el.append(button, stop, status);
  let clicks = model.get("taken");

  const draw = () => {
    clicks = Math.max(clicks, model.get("taken")); // another view of this button may have been clicked
    const isGone = !!el.closest(".jupyter-widgets-disconnected");
    if (isGone) clicks = model.get("taken"); // nobody will take the others
    const isQueued = clicks > model.get("taken");
    const state = isGone ? "idle" : isQueued ? "queued" : model.get("phase");
    el.dataset.state = state;
    el.classList.toggle("nif-wide", model.get("wide"));
    button.textContent = model.get("description");
    button.title = isGone ? GONE : model.get("tooltip");
    button.disabled = isGone || model.get("disabled");
    button.setAttribute("aria-busy", String(isQueued || state === "running"));
    stop.hidden = !(model.get("stoppable") && state === "running");
    stop.setAttribute("aria-label", `Stop ${model.get("description")}`);
    const [left, right] = model.get("accents");
    button.style.borderLeft = left ? `5px solid ${left}` : "";
    button.style.borderRight = right ? `5px solid ${right}` : "";
    status.textContent = isQueued ? "queued" : WORDS[state];
  };
  button.onclick = () => {
    if (button.getAttribute("aria-busy") === "true") return; // one is on its way
    clicks += 1;
    draw();
    model.send({ click: clicks });
  };
  stop.onclick = () => {
    button.focus(); // before it hides
    status.textContent = "stopping …";
    model.send({ stop: true });
  };
  const events = "change:description change:tooltip change:accents change:wide change:disabled change:phase change:taken";
  const later = () => setTimeout(draw); // when ipywidgets has marked the element
  model.on(events, draw);
  model.on("comm_live_update", later);
  draw();
  return () => {
    model.off(events, draw);
    model.off("comm_live_update", later);
  };
}

export default { render };
