// What a compiler says, read from a cell's outputs: the same text that people read (nif_lab.cells.report).

const HEAD = /^(error|warning): line (\d+)(?:, column (\d+))?: (.*)$/;
const COLOURS = /\x1b\[[\d;]*m/g;

function textOf(output) {
  if (output.output_type === "error") return (output.traceback ?? []).join("\n");
  const plain = output.data?.["text/plain"] ?? "";
  return Array.isArray(plain) ? plain.join("") : String(plain);
}

// The messages of a text, with the lines of the notebook's cell, which begin with 1.
export function read(text) {
  const lines = text.replace(COLOURS, "").split("\n");
  const found = [];
  lines.forEach((line, i) => {
    const head = HEAD.exec(line);
    if (!head) return;
    const carets = /^\s+(\^+)\s*$/.exec(lines[i + 2] ?? "");
    const [, kind, number, column = 0, said] = head;
    found.push({ kind, line: +number, column: +column, width: carets ? carets[1].length : 1, text: said });
  });
  return found;
}

export function messagesOf(outputs) {
  const all = [];
  for (let i = 0; i < outputs.length; i++) all.push(...read(textOf(outputs.get(i).toJSON())));
  return all;
}
