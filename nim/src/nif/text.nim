## The few functions on text that the SDK needs. `std/strutils` has them too, but what it imports takes longer to compile
## than all the rest of the SDK, and every cell would wait for it.

{.push raises: [], gcsafe.}

const
  AllChars* = {'\0' .. '\255'}
  IdentChars* = {'a' .. 'z', 'A' .. 'Z', '0' .. '9', '_'}
  Whitespace* = {' ', '\t', '\v', '\r', '\l', '\f'}

func isUpperAscii*(c: char): bool =
  c in {'A' .. 'Z'}

func toLowerAscii*(c: char): char =
  if c.isUpperAscii: char(ord(c) + 32) else: c

func find*(text: string; sought: set[char]; start = 0): int =
  ## Where the first of these characters is; -1 if none is there.
  for i in start .. text.high:
    if text[i] in sought:
      return i
  -1

func contains*(text, part: string): bool =
  for start in 0 .. text.len - part.len:
    if text[start ..< start + part.len] == part:
      return true

func allCharsInSet*(text: string; chars: set[char]): bool =
  for c in text:
    if c notin chars:
      return false
  true

func strip*(text: string; leading = true; trailing = true; chars = Whitespace): string =
  ## Without these characters at its ends.
  var (first, last) = (0, text.high)
  while leading and first <= last and text[first] in chars:
    inc first
  while trailing and last >= first and text[last] in chars:
    dec last
  text[first .. last]

func split*(text: string; at: char; maxsplit = -1): seq[string] =
  ## The parts between these characters; all of the text behind the first `maxsplit` of them is one part.
  result = @[""]
  for c in text:
    if c == at and (maxsplit < 0 or result.len <= maxsplit):
      result.add ""
    else:
      result[^1].add c

func splitWhitespace*(text: string): seq[string] =
  var word = ""
  for c in text & " ":
    if c notin Whitespace:
      word.add c
    elif word.len > 0:
      result.add word
      word = ""

func join*(parts: openArray[string]; between = ""): string =
  for i, part in parts:
    if i > 0:
      result.add between
    result.add part

func stripLineEnd*(text: var string) =
  ## Remove the line feed at its end.
  if text.len > 0 and text[^1] == '\l':
    text.setLen(text.len - 1)

func quoted*(text: string): string =
  ## In quotation marks, as C and Python write it.
  result = "\""
  for c in text:
    if c in {'\\', '"'}:
      result.add '\\'
    result.add c
  result.add '"'

func nextText*(data: pointer; size: int; at: var int; text: var string): bool =
  ## In a list of texts (of each its size in bytes, then the bytes) the one that begins at byte `at`, which becomes the place of
  ## the next; false where the bytes end in it.
  var length = 0'u64
  if size - at < sizeof(length):
    return false
  copyMem(addr length, cast[pointer](cast[uint](data) + uint(at)), sizeof(length))
  at += sizeof(length)
  if length > uint64(size - at):
    return false
  text = newString(int(length))
  if length > 0:
    copyMem(addr text[0], cast[pointer](cast[uint](data) + uint(at)), int(length))
  at += int(length)
  true
