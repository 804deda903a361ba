// The last errors, newest first: a call with the steps of its recovery is one entry.

const SHOWN = 10;
// Signs, so that colour isn't alone.
const OUTCOMES = { failed: "✗", answered: "✓", opened: "⚠", closed: "✓" };

// Put the records of one call together: it begins with a try, and ends with an answer or a failure of the whole.
function groupCalls(records) {
  const calls = [];
  let open = null;
  for (const it of records) {
    const mine = open && it.step !== "try" && it.function === open.function;
    if (!mine) {
      open = { function: it.function, steps: [] };
      calls.push(open);
    }
    open.steps.push(it);
    if (it.step === "") open = null;
  }
  return calls.map(({ steps }) => {
    const failure = steps.find((it) => it.step === "") ?? steps[0];
    const recovered = steps.some((it) => it.step !== "circuit" && it.outcome === "answered");
    const key = `${steps[0].time} ${steps[0].backend}.${steps[0].function}`;
    return { key, failure, recovered, steps: steps.filter((it) => it.step) };
  });
}

function stepText({ step, backend, outcome, duration_ns, kind, message, signal, exit_code }) {
  const end = signal ? `, signal ${signal}` : exit_code !== null ? `, exit code ${exit_code}` : "";
  const took = duration_ns ? ` after ${formatNs(duration_ns)}` : "";
  return `${OUTCOMES[outcome] ?? ""} ${step} in ${backend}: ${outcome}${took}${end}` + (kind ? `, ${kind}: ${message}` : "");
}

function errorsView(root, hub, change) {
  const filter = make("select", { ariaLabel: "Language of the errors", onchange: change });
  const more = make("button", { type: "button", onclick: () => ((all = !all), change()) });
  const list = make("ol", { className: "nif-errors" });
  const none = make("p", { className: "nif-none" });
  root.append(make("div", { className: "nif-tools" }, filter, more), none, list);
  const entries = new Map(); // by key; what stays keeps its element, and with it the user's selection
  let all = false;

  function languages() {
    const names = ["", ...hub.head.backends.map((it) => it.name)];
    if (filter.options.length === names.length) return;
    filter.replaceChildren(...names.map((it) => make("option", { value: it }, it ? titleOf(it) : "all languages")));
  }

  function entry({ failure, recovered, steps }) {
    const { time, backend, function: name, kind, message, cell, argument } = failure;
    const where = [cell ? `cell ${cell}` : "", argument >= 0 ? `argument ${argument + 1}` : ""].filter(Boolean).join(", ");
    const head = make("div", { className: "nif-error-head" },
      make("time", {}, formatTime(time)), languageLabel(backend), make("code", {}, name),
      make("b", {}, kind), make("span", { className: "nif-muted" }, where),
      make("span", { className: recovered ? "nif-good" : "nif-bad" }, recovered ? "✓ recovered" : "✗ failed"));
    const body = make("div", { className: "nif-message" }, message);
    const way = make("ul", { className: "nif-steps" }, ...steps.map((it) => make("li", {}, stepText(it))));
    const copy = make("button", { type: "button", title: "Copy this error as text" }, "Copy");
    copy.onclick = async () => {
      await navigator.clipboard?.writeText(`${formatTime(time)} ${backend}.${name}: ${kind}: ${message}\n` +
        steps.map((it) => `  ${stepText(it)}\n`).join(""));
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    };
    head.append(copy);
    return make("li", {}, head, body, ...(steps.length ? [way] : []));
  }

  function draw() {
    languages();
    const calls = groupCalls(hub.errors).filter((it) => [it.failure.backend, ""].includes(filter.value)).reverse();
    const shown = all ? calls : calls.slice(0, SHOWN);
    more.hidden = calls.length <= SHOWN;
    setText(more, all ? `the last ${SHOWN}` : `all ${calls.length}`);
    none.hidden = calls.length > 0;
    setText(none, filter.value ? `✓ no errors in ${titleOf(filter.value)}` : "✓ no errors");
    const keys = new Map(shown.map((it) => [`${it.key} ${it.steps.length} ${it.failure.step}`, it]));
    for (const [key, element] of entries) {
      if (keys.has(key)) continue;
      element.remove();
      entries.delete(key);
    }
    let place = list.firstChild;
    for (const [key, it] of keys) {
      if (!entries.has(key)) entries.set(key, entry(it));
      const element = entries.get(key);
      if (element === place) place = place.nextSibling;
      else list.insertBefore(element, place);
    }
  }

  return { draw };
}
