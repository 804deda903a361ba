# Package
version = "0.1.0"
author = "the nif_lab authors"
description = "Native functions for Jupyter: the Nim SDK and the Nim backend of nif_lab"
license = "MIT"
srcDir = "src"

# Dependencies
requires "nim >= 2.0.0"

# Tasks
task test, "run the unit tests under both memory managers":
  for memory in ["arc", "orc"]:
    exec "nim r --hints:off --mm:" & memory & " tests/test_all.nim"
