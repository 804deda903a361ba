// A part of the page as one HTML file: pictures and charts as data, styles with the theme's colours.

const BODY = "margin: 1em auto; max-width: 60em; font-family: sans-serif; color: var(--jp-ui-font-color1); background: var(--jp-layout-color1);";
const VARIABLES = /var\((--[\w-]+)/g;

async function dataOf(image) {
  const blob = await (await fetch(image.src)).blob();
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

export async function htmlOf(node, title) {
  const copy = node.cloneNode(true);
  const [charts, drawn] = [node, copy].map((it) => [...it.querySelectorAll("canvas")]);
  charts.forEach((it, i) => {
    const image = document.createElement("img");
    image.src = it.toDataURL();
    image.alt = it.getAttribute("aria-label") ?? "chart";
    image.style.width = `${it.clientWidth}px`;
    drawn[i].replaceWith(image);
  });
  const [images, copied] = [node, copy].map((it) => [...it.querySelectorAll("img[src^='blob:']")]);
  await Promise.all(images.map(async (it, i) => (copied[i].src = await dataOf(it))));
  for (const it of copy.querySelectorAll("button, select")) it.remove();
  copy.removeAttribute("style"); // where the panel stood in JupyterLab
  const text = copy.outerHTML;
  const style = getComputedStyle(document.body);
  const names = new Set([...(BODY + text).matchAll(VARIABLES)].map((it) => it[1]));
  const values = [...names].map((it) => [it, style.getPropertyValue(it).trim()]).filter((it) => it[1]);
  const root = values.map(([name, value]) => `${name}: ${value};`).join(" ");
  const head = document.createElement("title");
  head.textContent = `nif_lab: ${title}, ${new Date().toLocaleString()}`;
  const heading = document.createElement("h1");
  heading.textContent = head.textContent;
  const look = `:root { ${root} } body { ${BODY} }`;
  return `<!doctype html>\n<html lang="en"><head><meta charset="utf-8">${head.outerHTML}<style>${look}</style></head><body>${heading.outerHTML}${text}</body></html>\n`;
}

export async function saved(node, title) {
  const text = await htmlOf(node, title);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/html" }));
  link.download = `nif_lab ${title.replace(/\.ipynb$/, "")}.html`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
