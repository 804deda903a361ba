// A row of tabs. The pages are its siblings: pages.css shows the one that this element names, so that a tab works without
// the kernel, and whenever and wherever the notebook attaches the pages.

function render({ model, el }) {
  const tabs = model.get("titles").map((title, i) => {
    const tab = Object.assign(document.createElement("button"), { type: "button", textContent: title });
    tab.setAttribute("role", "tab");
    tab.onclick = () => choose(i);
    return tab;
  });
  el.classList.add("nif-tabs");
  el.setAttribute("role", "tablist");
  el.setAttribute("aria-label", "Pages of the dashboard");
  el.replaceChildren(...tabs);

  function draw() {
    const chosen = model.get("chosen");
    el.dataset.page = chosen;
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === chosen));
      tab.tabIndex = i === chosen ? 0 : -1; // the arrow keys lead to the others
    });
  }

  function choose(i) {
    model.set("chosen", i);
    model.save_changes();
    draw(); // at once: without a kernel nothing would answer
  }

  el.onkeydown = (event) => {
    const at = tabs.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has keys of its own
    const to = (next + tabs.length) % tabs.length;
    choose(to);
    tabs[to].focus();
  };
  model.on("change:chosen", draw);
  draw();
  return () => model.off("change:chosen", draw);
}

export default { render };
