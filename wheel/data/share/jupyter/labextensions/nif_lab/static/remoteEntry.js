// What JupyterLab loads: a container as module federation defines it. The modules beside this file are plain ES modules;
// all that they need of JupyterLab (CodeMirror too) comes from the page's own shared modules, so nothing is built.

(() => {
  const here = document.currentScript.src;
  const VERSION = "0.2.0";
  let scope = {};

  // Return a module that JupyterLab shares. An extension may offer another version: the page's own is loaded already.
  async function shared(name) {
    const offered = Object.values(scope[name] ?? {});
    const found = offered.find((it) => it.loaded) ?? offered[0];
    if (!found) throw new Error(`nif_lab: this JupyterLab doesn't share ${name}`);
    return (await found.get())();
  }

  (window._JUPYTERLAB ??= {}).nif_lab = {
    init(given) {
      scope = given;
    },
    async get(module) {
      if (module !== "./extension") throw new Error(`nif_lab has no module ${module}`);
      const { plugins } = await import(new URL(`main.js?v=${VERSION}`, here).href);
      const found = await plugins(shared);
      return () => ({ __esModule: true, default: found });
    },
  };
})();
