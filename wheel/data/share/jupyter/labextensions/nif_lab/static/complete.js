// Completion in native cells: the language's words, the SDK's names, what this notebook's cells of the language declare,
// and the Lab's functions.

import { languageOf, NIM, ZIG } from "./modes.js";

const split = (text) => text.split(" ");

const WORDS = {
  rust: split("as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while bool char str String Vec Option Some None Result Ok Err Box i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize f32 f64"),
  zig: [...ZIG.keywords, ...ZIG.types, ...ZIG.atoms, ...split("i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 @import @as @intCast @floatFromInt @intFromFloat @floatCast @sqrt @sin @cos @exp @log @abs @min @max @memcpy @memset @sizeOf @TypeOf @embedFile @bitCast @ptrCast @splat @reduce @Vector @errorName @panic @compileError")],
  nim: [...NIM.keywords, ...NIM.types, ...NIM.atoms, ...split("echo len add inc dec high low abs min max toFloat toInt newSeq newString")],
  julia: split("abstract baremodule begin break catch const continue do else elseif end export false finally for function global if import in isa let local macro module mutable primitive quote return struct true try type using where while nothing missing Int Int8 Int16 Int32 Int64 UInt UInt8 UInt16 UInt32 UInt64 Float32 Float64 Bool Char String Vector Matrix Array Tuple Union Nothing length size sum zeros ones similar eachindex axes println sqrt exp log sin cos abs min max map filter reduce push! pop!"),
};

// docs/cells.md and the SDKs have what these are.
const SDK = {
  rust: split("Matrix MatrixMut AnyArray Bytes ByteBuf Tensor Bool Callback Error progress cells nif"),
  zig: split("nif nif.Matrix nif.MatrixMut nif.AnyArray nif.Bytes nif.Bool nif.Tensor nif.Callback nif.progress std std.mem.Allocator std.math std.fmt cells flags allocator"),
  nim: split("Matrix AnyArray Bytes ByteSeq Bool Tensor Callback NifError progress cells"),
  julia: split("Vec MutVec Mat MutMat AnyArray Bytes ByteVector Block Callback progress cells @nif"),
};

const DECLARED = /\b(?:fn|function|struct|enum|union|trait|type|const|static|var|let|proc|func|template|macro|iterator|mod|module)\s+`?([^\W\d]\w*!?)|^([^\W\d]\w*!?)\((?=[^\n]*\)[^\n]*=)/gm;

const namesIn = (text) => [...text.matchAll(DECLARED)].map((it) => it[1] ?? it[2]);

// The functions of `lab.zig`, by the kernel; nothing where it is busy.
async function labFunctions(session, language) {
  const kernel = session?.kernel;
  if (!kernel || kernel.status !== "idle") return [];
  const code = `lab.${language}.`;
  const late = new Promise((resolve) => setTimeout(resolve, 80, null));
  const reply = await Promise.race([kernel.requestComplete({ code, cursor_pos: code.length }), late]);
  const typed = reply?.content?.metadata?._jupyter_types_experimental ?? [];
  return typed.filter((it) => it.type === "function").map((it) => it.text);
}

export function provider(wanted) {
  return {
    identifier: "CompletionProvider:nif_lab",
    rank: 1100, // before the kernel's, which knows Python alone
    renderer: null,
    async isApplicable({ editor }) {
      return Boolean(wanted.enabled && editor && languageOf(editor.getLine(0) ?? ""));
    },
    async fetch({ text, offset }, { widget, session, editor }) {
      const language = languageOf(text.slice(0, text.indexOf("\n") + 1 || undefined));
      const before = text.slice(0, offset);
      const prefix = /[@\w!]*$/.exec(before)[0];
      const dotted = /([\w.]+\.)[\w!]*$/.exec(before)?.[1] ?? "";
      const start = offset - prefix.length;
      const items = new Map();
      const add = (names, type) => {
        for (const it of names) {
          const label = dotted && it.startsWith(dotted) ? it.slice(dotted.length) : it;
          if (label.startsWith(prefix) && label !== prefix && !items.has(label)) items.set(label, { label, type });
        }
      };
      const cells = [...(widget?.content?.model?.cells ?? widget?.content?.widgets?.map((it) => it.model) ?? [])];
      const texts = cells.map((it) => it.sharedModel?.source ?? "").filter((it) => languageOf(it.split("\n", 1)[0]) === language);
      if (!texts.includes(text)) texts.push(text);
      if (dotted === "cells.") {
        add(texts.flatMap((it) => (it === text ? [] : namesIn(it))), "function");
      } else {
        add(namesIn(text), "variable");
        add(texts.flatMap(namesIn), "function");
        add(await labFunctions(session, language), "function");
        add(SDK[language] ?? [], "class");
        add(WORDS[language] ?? [], "keyword");
      }
      return { start, end: editor ? start + prefix.length : offset, items: [...items.values()] };
    },
  };
}
