## Notebook cells: the public routines of a file become NIFs without a word of their own.

import std/macros

func isMarked(routine: NimNode): bool =
  for pragma in routine.pragma:
    let head = if pragma.kind in {nnkExprColonExpr, nnkCall}: pragma[0] else: pragma
    if head.eqIdent("nif"):
      return true

macro cell*(path: static string): untyped =
  ## Insert the file's statements, with `{.nif.}` on each public proc and func.
  result = parseStmt(staticRead(path), path)
  for routine in result:
    if routine.kind in {nnkProcDef, nnkFuncDef} and routine[0].kind == nnkPostfix and not routine.isMarked:
      let mark = ident"nif"
      mark.copyLineInfo(routine[0]) # what is wrong with it is wrong there
      routine.addPragma(mark)
