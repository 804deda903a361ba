// The dashboard of a notebook's Lab in a panel of its own: the live views without a widget of the kernel's, so read-only.

import { saved } from "./save.js";

const COMMAND = "nif_lab:dashboard";
const VIEWS = [["performance", "Performance"], ["history", "History"], ["memory", "Memory"], ["errors", "Errors"]];
// Bars and a line; the class has JupyterLab colour it.
const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="24"><g class="jp-icon3" fill="#616161">
<path d="M3 13h4v8H3zM10 9h4v12h-4zM17 15h4v6h-4z"/><path d="m3 9 6-6 5 3 6-4 1 1.6-7 4.7-5-3-4.6 4.6z"/></g></svg>`;
const LOOK_MS = 3000; // between looks for a Lab where there was none

// What a view expects of a widget's model; nothing is sent, as there is nobody to send it to.
function modelOf(kernel, view, bar) {
  const traits = { kernel, lab: "", view, bar, rate: 10, path: "auto", still: "", details: "" };
  return { get: (name) => traits[name], set: (name, value) => (traits[name] = value), save_changes() {}, on() {}, off() {}, send() {} };
}

export function dashboard(lab) {
  const { MainAreaWidget, ICommandPalette, Notification, ToolbarButton } = lab.apputils;
  const { ILauncher } = lab.launcher;
  const { INotebookTracker } = lab.notebook;
  const { PageConfig } = lab.coreutils;
  const { Widget } = lab.widgets;
  const icon = new lab.ui.LabIcon({ name: "nif_lab:dashboard", svgstr: ICON });

  class Panel extends Widget {
    constructor(kernelOf, title) {
      super();
      Object.assign(this, { kernelOf, name: title, ends: [], kernel: "" });
      this.addClass("nif-dashboard");
      Object.assign(this.node.style, { overflow: "auto", padding: "8px", background: "var(--jp-layout-color1)" });
      this.style = document.createElement("style");
      this.note = document.createElement("p");
      this.note.setAttribute("role", "status");
      this.views = document.createElement("div");
      this.node.append(this.style, this.note, this.views);
    }

    onAfterAttach() {
      this.start();
      this.looking = setInterval(() => this.look(), LOOK_MS);
    }

    onBeforeDetach() {
      clearInterval(this.looking);
      this.end();
    }

    async start() {
      const base = `${PageConfig.getBaseUrl()}nif_lab/`;
      try {
        const [module, style] = await Promise.all([
          import(`${base}view.js`),
          fetch(`${base}view.css`, { credentials: "same-origin" }).then((it) => it.text()),
        ]);
        this.render = module.default.render;
        this.style.textContent = style;
      } catch {
        this.note.textContent = "The server doesn't have nif_lab's extension. To fix: install nif_lab where the server runs.";
        return;
      }
      this.show();
    }

    show() {
      this.end();
      this.kernel = this.kernelOf() ?? "";
      this.note.textContent = this.kernel ? "" : "The notebook has no kernel.";
      if (!this.kernel || this.isDisposed) return;
      for (const [view, title] of VIEWS) {
        const section = document.createElement("section");
        const head = document.createElement("h3");
        head.textContent = title;
        const el = document.createElement("div");
        section.append(head, el);
        this.views.append(section);
        this.ends.push(this.render({ model: modelOf(this.kernel, view, view === VIEWS[0][0]), el }));
      }
    }

    // A Lab that is made later, and a kernel that was started again, are found by trying again.
    look() {
      if (!this.render || !this.isVisible) return;
      const path = this.views.querySelector(".nif-live")?.dataset.path;
      const lost = path === "kernel" || path === "ended" || this.kernel !== (this.kernelOf() ?? "");
      if (!lost && path) return;
      this.show();
      if (this.kernel && lost) this.note.textContent = "The kernel has no Lab yet. Make one: lab = nif_lab.Lab()";
    }

    end() {
      for (const end of this.ends) end();
      this.ends = [];
      this.views.replaceChildren();
    }
  }

  return {
    id: "nif_lab:dashboard",
    description: "Shows the dashboard of a notebook's Lab in a panel of its own.",
    autoStart: true,
    requires: [INotebookTracker],
    optional: [ILauncher, ICommandPalette],
    activate(app, notebooks, launcher, palette) {
      let number = 0;
      app.commands.addCommand(COMMAND, {
        label: "nif_lab dashboard",
        icon: (args) => (args.isPalette ? undefined : icon),
        caption: "Show what the Lab of the current notebook does",
        execute() {
          const notebook = notebooks.currentWidget;
          if (!notebook) {
            Notification.warning("Open a notebook first: the dashboard shows its Lab.", { autoClose: 5000 });
            return null;
          }
          const content = new Panel(() => notebook.sessionContext.session?.kernel?.id, notebook.title.label);
          const panel = new MainAreaWidget({ content });
          panel.id = `nif-lab-dashboard-${(number += 1)}`;
          panel.title.label = `nif_lab: ${notebook.title.label}`;
          panel.title.icon = icon;
          panel.title.closable = true;
          const button = new ToolbarButton({
            label: "Save as HTML",
            tooltip: "Save what the panel shows as one HTML file",
            onClick: () => saved(content.node, content.name),
          });
          panel.toolbar.addItem("save", button);
          // Notebook 7 has one document in its main area.
          if (app.name === "JupyterLab") app.shell.add(panel, "main", { mode: "split-right", ref: notebook.id });
          else app.shell.add(panel, "right");
          app.shell.activateById(panel.id);
          return panel;
        },
      });
      palette?.addItem({ command: COMMAND, category: "nif_lab", args: { isPalette: true } });
      launcher?.add({ command: COMMAND, category: "Other", rank: 50 });
    },
  };
}
