// The plugins. Each takes JupyterLab's modules as an object, by short names.

import { cellsExtension } from "./cells.js";
import { provider } from "./complete.js";
import { dashboard } from "./dashboard.js";
import { ADDED } from "./modes.js";

const CELLS = "nif_lab:cells";

export async function plugins(shared) {
  const names = {
    state: "@codemirror/state",
    view: "@codemirror/view",
    language: "@codemirror/language",
    common: "@lezer/common",
    codemirror: "@jupyterlab/codemirror",
    completer: "@jupyterlab/completer",
    notebook: "@jupyterlab/notebook",
    settings: "@jupyterlab/settingregistry",
    launcher: "@jupyterlab/launcher",
    apputils: "@jupyterlab/apputils",
    ui: "@jupyterlab/ui-components",
    coreutils: "@jupyterlab/coreutils",
    widgets: "@lumino/widgets",
  };
  const pairs = Object.entries(names).map(async ([short, name]) => [short, await shared(name)]);
  const lab = Object.fromEntries(await Promise.all(pairs));
  const { IEditorExtensionRegistry, IEditorLanguageRegistry } = lab.codemirror;
  const cells = {
    id: CELLS,
    description: "Highlights native cells, marks what their compilers say, and completes names in them.",
    autoStart: true,
    requires: [IEditorExtensionRegistry, IEditorLanguageRegistry],
    optional: [lab.completer.ICompletionProviderManager, lab.settings.ISettingRegistry],
    activate(app, extensions, languages, completion, settings) {
      const wanted = { enabled: true, changed: new Set() };
      for (const it of ADDED) {
        if (languages.findByName(it.name)) continue;
        const load = async () => new lab.language.LanguageSupport(lab.language.StreamLanguage.define(it.mode));
        languages.addLanguage({ name: it.name, displayName: it.title, mime: it.mime, extensions: it.extensions, load });
      }
      extensions.addExtension(cellsExtension(lab, languages, wanted));
      completion?.registerProvider(provider(wanted));
      const follow = (loaded) => {
        wanted.enabled = loaded.get("enabled").composite !== false;
        for (const tell of wanted.changed) tell();
      };
      settings?.load(CELLS).then((loaded) => {
        follow(loaded);
        loaded.changed.connect(follow);
      }, () => {}); // without its schema the defaults hold
    },
  };
  return [cells, dashboard(lab)];
}
