// A frame's bytes, of which one is chosen by a click and flipped by a double click. The page itself is made by the kernel.

// The byte under the pointer: all bytes of a run are equally wide. Without a pointer it is the run's first.
function byteOf(run, event) {
  const [at, count] = [Number(run.dataset.at), Number(run.dataset.bytes)];
  const { left, width } = run.getBoundingClientRect();
  const i = event.clientX === undefined ? 0 : Math.floor(((event.clientX - left) * count) / width);
  return at + Math.min(Math.max(i, 0), count - 1);
}

function render({ model, el }) {
  const draw = () => {
    const focused = el.querySelector(".run:focus")?.dataset.at;
    el.innerHTML = model.get("html");
    if (focused) el.querySelector(`.run[data-at="${focused}"]`)?.focus();
  };
  const tell = (event, what) => {
    const run = event.target.closest(".run[data-at]");
    if (run) model.send({ [what]: byteOf(run, event) });
  };
  el.onclick = (event) => tell(event, "choose");
  el.ondblclick = (event) => tell(event, "flip");
  el.onkeydown = (event) => {
    if (event.key !== "Enter" || !event.target.closest(".run")) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has keys of its own
    tell(event, "choose");
  };
  model.on("change:html", draw);
  draw();
  return () => model.off("change:html", draw);
}

export default { render };
