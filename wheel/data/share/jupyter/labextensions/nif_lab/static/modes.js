// Which language a cell is in, and CodeMirror modes for the languages that JupyterLab has none for.

// By the magic: the name that JupyterLab's language registry has.
export const LANGUAGES = { rust: "rust", zig: "zig", nim: "nim", julia: "julia", cuda: "C++" };

const MAGIC = /^%%(?:nif\s+)?(\w+)(?=\s|$)/;

// The magic's language of a cell by its first line; empty for all other cells.
export function languageOf(line) {
  const found = MAGIC.exec(line);
  return found && found[1] in LANGUAGES ? found[1] : "";
}

const words = (text) => new Set(text.split(" "));

export const ZIG = {
  keywords: words("addrspace align allowzero and anyframe anytype asm break callconv catch comptime const continue defer else enum errdefer error export extern fn for if inline linksection noalias noinline nosuspend opaque or orelse packed pub resume return struct suspend switch test threadlocal try union unreachable usingnamespace var volatile while"),
  types: words("bool void noreturn type anyerror anyopaque comptime_int comptime_float isize usize f16 f32 f64 f80 f128 c_char c_short c_int c_uint c_long c_longlong"),
  atoms: words("true false null undefined"),
};

export const NIM = {
  keywords: words("addr and as asm bind block break case cast concept const continue converter defer discard distinct div do elif else end enum except export finally for from func if import in include interface is isnot iterator let macro method mixin mod nil not notin object of or out proc ptr raise ref return shl shr static template try tuple type using var when while xor yield"),
  types: words("int int8 int16 int32 int64 uint uint8 uint16 uint32 uint64 float float32 float64 bool char string cstring pointer seq array openArray set range untyped typed void auto any Natural Positive Option byte"),
  atoms: words("true false nil result on off"),
};

function zigToken(stream, state) {
  if (stream.eatSpace()) return null;
  if (stream.match(/^\/\/[/!].*/)) return "docComment";
  if (stream.match(/^\/\/.*/)) return "lineComment";
  if (stream.match(/^\\\\.*/)) return "string";
  if (stream.match(/^"(?:[^"\\]|\\.)*"?/)) return "string";
  if (stream.match(/^'(?:[^'\\]|\\.[^']*)'?/)) return "character";
  if (stream.match(/^@"(?:[^"\\]|\\.)*"/)) return "variableName";
  if (stream.match(/^@\w+/)) return "variableName.standard";
  if (stream.match(/^0x[\da-fA-F_]+(?:\.[\da-fA-F_]+)?(?:[pP][+-]?\d+)?|^0[ob][\d_]+/)) return "number";
  if (stream.match(/^\d[\d_]*(?:\.(?!\.)[\d_]+)?(?:[eE][+-]?\d+)?/)) return "number";
  const word = stream.match(/^[A-Za-z_]\w*/);
  if (word) {
    const before = state.last;
    state.last = word[0];
    if (ZIG.keywords.has(word[0])) return "keyword";
    if (ZIG.types.has(word[0]) || /^[iu]\d+$/.test(word[0])) return "typeName";
    if (ZIG.atoms.has(word[0])) return "atom";
    if (before === "fn") return "variableName.definition";
    return /^[A-Z]/.test(word[0]) ? "typeName" : stream.peek() === "(" ? "variableName.function" : "variableName";
  }
  state.last = "";
  const sign = stream.next();
  return /[-+*/%=<>!&|^~?.]/.test(sign) ? "operator" : /[()[\]{}]/.test(sign) ? "bracket" : "punctuation";
}

function nimToken(stream, state) {
  if (state.until) {
    // In a text or a comment of several lines.
    const { end, style } = state.until;
    while (!stream.eol()) {
      if (stream.match(end)) {
        state.until = null;
        break;
      }
      stream.next();
    }
    return style;
  }
  if (stream.eatSpace()) return null;
  for (const [begin, end, style] of [["##[", "]##", "docComment"], ["#[", "]#", "blockComment"], ['"""', '"""', "string"]]) {
    if (stream.match(begin)) {
      state.until = { end, style };
      return nimToken(stream, state) ?? style;
    }
  }
  if (stream.match(/^##.*/)) return "docComment";
  if (stream.match(/^#.*/)) return "lineComment";
  if (stream.match(/^[rR]"(?:[^"]|"")*"?/) || stream.match(/^"(?:[^"\\]|\\.)*"?/)) return "string";
  if (stream.match(/^'(?:\\.[^']*|[^'\\])'/)) return "character";
  if (stream.match(/^\{\.|^\.\}/)) return "meta";
  if (stream.match(/^0[xX][\da-fA-F_]+|^0[ob][\d_]+/)) return "number";
  if (stream.match(/^\d[\d_]*(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)?(?:'?[iufd]\d*)?/)) return "number";
  if (stream.match(/^`[^`]+`/)) return "variableName";
  const word = stream.match(/^[A-Za-z_\u0080-\uffff]\w*/);
  if (word) {
    const before = state.last;
    state.last = word[0];
    if (NIM.atoms.has(word[0])) return "atom";
    if (NIM.keywords.has(word[0])) return "keyword";
    if (NIM.types.has(word[0]) || /^[A-Z]/.test(word[0])) return "typeName";
    if (/^(?:proc|func|template|macro|iterator|method|converter)$/.test(before)) return "variableName.definition";
    return stream.peek() === "(" ? "variableName.function" : "variableName";
  }
  state.last = "";
  const sign = stream.next();
  return /[-+*/%=<>!&|^~?.@$]/.test(sign) ? "operator" : /[()[\]{}]/.test(sign) ? "bracket" : "punctuation";
}

const indented = (opening) => (state, textAfter, context) => {
  const unit = context.unit;
  const before = context.lineAt(context.pos, -1).text;
  const deeper = opening.test(before) ? unit : 0;
  const own = before.length - before.trimStart().length;
  return Math.max(0, own + deeper - (/^[}\])]/.test(textAfter.trim()) ? unit : 0));
};

export const ADDED = [
  {
    name: "zig",
    title: "Zig",
    mime: "text/x-zig",
    extensions: ["zig", "zon"],
    mode: {
      name: "zig",
      startState: () => ({ last: "" }),
      token: zigToken,
      indent: indented(/[{([]\s*$/),
      languageData: { commentTokens: { line: "//" }, closeBrackets: { brackets: ["(", "[", "{", '"'] } },
    },
  },
  {
    name: "nim",
    title: "Nim",
    mime: "text/x-nim",
    extensions: ["nim", "nims"],
    mode: {
      name: "nim",
      startState: () => ({ last: "", until: null }),
      token: nimToken,
      indent: indented(/[:=({[]\s*$/),
      languageData: { commentTokens: { line: "#" }, closeBrackets: { brackets: ["(", "[", "{", '"'] } },
    },
  },
];
