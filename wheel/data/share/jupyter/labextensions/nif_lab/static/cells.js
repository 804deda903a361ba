// An editor's extension: a native cell is parsed by its own language, and its compiler's messages stand under their lines.

import { LANGUAGES, languageOf } from "./modes.js";
import { messagesOf } from "./messages.js";

// What a language needs to parse a cell: its first line is the magic's, and none of the language's.
function belowMagic(lab, support) {
  const { Language } = lab.language;
  const { NodeType, Parser, Tree } = lab.common;
  const inner = support.language;
  const top = NodeType.define({ id: 0, name: "Cell", top: true, props: [[lab.language.languageDataProp, inner.data]] });

  class BelowMagic extends Parser {
    createParse(input, fragments, ranges) {
      let begin = 0;
      while (begin < input.length) {
        const text = input.chunk(begin);
        const end = text.indexOf("\n");
        if (end >= 0) {
          begin += end + 1;
          break;
        }
        begin += text.length || 1;
      }
      const shown = ranges.map(({ from, to }) => ({ from: Math.max(from, begin), to })).filter((it) => it.from < it.to);
      const last = ranges.at(-1)?.to ?? input.length;
      if (!shown.length) {
        return { advance: () => new Tree(top, [], [], last), parsedPos: last, stopAt() {}, stoppedAt: null };
      }
      // Parsed anew with each change: a cell is small, and the pieces of an older tree lie elsewhere.
      const parse = inner.parser.createParse(input, [], shown);
      return {
        advance() {
          const tree = parse.advance();
          return tree && new Tree(top, [tree], [shown[0].from], shown[0].from + tree.length);
        },
        get parsedPos() {
          return parse.parsedPos;
        },
        stopAt(at) {
          parse.stopAt(at);
        },
        get stoppedAt() {
          return parse.stoppedAt;
        },
      };
    }
  }
  return [new Language(inner.data, new BelowMagic(), [], inner.name), support.support];
}

const STYLE = {
  ".nif-error": { textDecoration: "underline wavy var(--jp-error-color1, #b00020)", textDecorationSkipInk: "none" },
  ".nif-warning": { textDecoration: "underline wavy var(--jp-warn-color1, #b26a00)", textDecorationSkipInk: "none" },
  ".nif-magic": { color: "var(--jp-mirror-editor-meta-color, #aa22ff)" },
  ".nif-said": { display: "block", fontSize: "0.9em", whiteSpace: "pre-wrap", paddingLeft: "6px" },
  ".nif-said-error": { color: "var(--jp-error-color1, #b00020)" },
  ".nif-said-warning": { color: "var(--jp-warn-color1, #b26a00)" },
};

export function cellsExtension(lab, languages, wanted) {
  const { Compartment, Prec, StateEffect, StateField } = lab.state;
  const { Decoration, EditorView, ViewPlugin, WidgetType } = lab.view;
  const supports = new Map();

  // The extension that makes an editor one of this language.
  async function supportOf(language) {
    if (!supports.has(language)) {
      const found = await languages.getLanguage(languages.findByName(LANGUAGES[language])?.name ?? LANGUAGES[language]);
      supports.set(language, found?.support ? belowMagic(lab, found.support) : []);
    }
    return supports.get(language);
  }

  const setMarks = StateEffect.define();

  class Said extends WidgetType {
    constructor(it) {
      super();
      this.it = it;
    }

    eq(other) {
      return other.it.text === this.it.text && other.it.kind === this.it.kind;
    }

    toDOM() {
      const line = document.createElement("div");
      line.className = `nif-said nif-said-${this.it.kind}`;
      line.setAttribute("role", "note");
      line.textContent = `${this.it.kind}: ${this.it.text}`;
      return line;
    }
  }

  // Messages as decorations: the place underlined, the words under the line. A line that isn't there any more has none.
  function marksOf(doc, messages) {
    const made = [];
    for (const it of messages) {
      if (it.line < 1 || it.line > doc.lines) continue;
      const line = doc.line(it.line);
      const from = Math.min(line.from + Math.max(it.column - 1, 0), line.to);
      const to = Math.min(it.column ? from + it.width : line.to, line.to);
      const mark = Decoration.mark({ class: `nif-${it.kind}`, attributes: { title: it.text } });
      if (from < to) made.push(mark.range(from, to));
      made.push(Decoration.widget({ widget: new Said(it), block: true, side: 1 }).range(line.to));
    }
    return Decoration.set(made, true);
  }

  const marks = StateField.define({
    create: () => Decoration.none,
    update(value, transaction) {
      for (const it of transaction.effects) if (it.is(setMarks)) return marksOf(transaction.state.doc, it.value);
      if (!transaction.docChanged || value === Decoration.none) return value;
      // Where somebody writes, what was said of the line is about another line.
      const touched = [];
      transaction.changes.iterChangedRanges((fromA, toA) => touched.push([fromA, toA]));
      const { doc } = transaction.startState;
      const isTouched = (at) => touched.some(([from, to]) => doc.lineAt(from).from <= at && at <= doc.lineAt(to).to);
      return value.update({ filter: (from) => !isTouched(from) }).map(transaction.changes);
    },
    provide: (field) => EditorView.decorations.from(field),
  });

  const magic = Decoration.line({ class: "nif-magic" });

  return {
    name: "nif_lab",
    factory: ({ model }) => {
      const native = new Compartment();
      const outputs = model.outputs;

      class Follower {
        constructor(view) {
          this.view = view;
          this.language = "";
          this.decorations = Decoration.none;
          this.check = () => this.follow();
          this.read = () => this.mark();
          wanted.changed.add(this.check);
          model.mimeTypeChanged?.connect(this.check); // the kernel says what the notebook's language is
          outputs?.changed.connect(this.read);
          this.follow();
          this.mark();
        }

        update(update) {
          if (!update.docChanged) return;
          const first = update.state.doc.line(1);
          this.decorations = this.language ? Decoration.set([magic.range(first.from)]) : Decoration.none;
          this.follow();
        }

        // Have the language that the first line names. A view can't be changed while it updates.
        async follow() {
          const python = !model.mimeType || model.mimeType.includes("python");
          const language = wanted.enabled && python ? languageOf(this.view.state.doc.line(1).text) : "";
          if (language === this.language) return;
          this.language = language;
          const support = language ? await supportOf(language) : [];
          await null;
          if (this.gone || language !== this.language) return;
          const first = this.view.state.doc.line(1);
          this.decorations = language ? Decoration.set([magic.range(first.from)]) : Decoration.none;
          this.view.dispatch({ effects: native.reconfigure(Prec.highest(support)) });
          this.mark();
        }

        // Put what the outputs say under the lines that it is about.
        async mark() {
          await null;
          if (this.gone) return;
          const messages = this.language && outputs ? messagesOf(outputs) : [];
          if (messages.length || this.view.state.field(marks) !== Decoration.none) {
            this.view.dispatch({ effects: setMarks.of(messages) });
          }
        }

        destroy() {
          this.gone = true;
          wanted.changed.delete(this.check);
          model.mimeTypeChanged?.disconnect(this.check);
          outputs?.changed.disconnect(this.read);
        }
      }

      const follower = ViewPlugin.fromClass(Follower, { decorations: (it) => it.decorations });
      const extension = [native.of([]), marks, follower, EditorView.baseTheme(STYLE)];
      return { instance: () => extension, reconfigure: () => null };
    },
  };
}
