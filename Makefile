# make demo     draw a sheet of the bundled model: demo.png
# make test     all tests: Rust, then Python in an environment made here
# make test-cuda-kernels   compile every GPU kernel for Turing, Orin, Hopper and later GPUs; no GPU is needed
# make test-cuda   the GPU's tests, where there is a GPU
# make bench-cuda  measure on a GPU: benches/RESULTS-cuda.md
# make test-c   the C library under test: C and C++ programs, sanitizers, symbols, header
# make capi     the C library: libmaskgit.so, libmaskgit.a
# make header   write include/maskgit.h anew, from src/capi
# make arm      cross-compile for 64-bit ARM and run all tests in an emulator
# make install  the C library, its header and pkg-config file, into PREFIX (/usr/local) under DESTDIR; make uninstall takes them away
# make lint     rustfmt, clippy and rustdoc, warnings denied
# make bench    Criterion benches and `maskgit bench`
# make compare  our engine beside ONNX Runtime: benches/RESULTS.md and benches/RESULTS-imagenet256.md (a quarter of an hour)
# make published   convert random checkpoints of every published shape, measure the bundles: benches/RESULTS-published.md (hours, 40 GB of disk)
# make fmt      format the Rust code
# make golden   write tests/golden anew, after a change that is meant to change tokens
# make tiny     write tests/data/tiny anew
# make inputs   write tests/data/inputs anew
# make pictures write docs/images anew, from the bundled model
# make evaluate-edit   measure inpainting with the bundled model, and write it into its card; MODEL=avatars-128 measures that one
# make avatars-64   repeat models/avatars-64 from nothing: data, training, export, checks, measurements (hours)
# make avatars-128-train   draw the data of avatars-128 and train it from avatars-64; interrupted, it goes on where it was (hours)
# make avatars-128   the same, then export, checks, measurements
# make ablate   measure the sampling settings of avatars-64 again, and write models/avatars-64/ABLATIONS.md (an hour); MODEL=avatars-128: of that one
#
# What is made for Python lies outside the clone, in MASKGIT_CACHE, and so does the target folder; CARGO_TARGET_DIR overrides it.

MASKGIT_CACHE ?= $(HOME)/.cache/maskgit
CARGO_TARGET_DIR ?= $(MASKGIT_CACHE)/target
export CARGO_TARGET_DIR

CARGO ?= cargo
PYTHON ?= python3
VENV := $(MASKGIT_CACHE)/venv
VENV_PYTHON := $(VENV)/bin/python
# A change of the Python package's dependencies installs them again.
VENV_STAMP := $(VENV)/.maskgit-$(firstword $(shell cksum export/pyproject.toml 2>/dev/null))
CLASS ?= lorelei

.PHONY: demo test test-rust test-python test-c test-cuda-kernels test-cuda bench-cuda capi header arm install uninstall lint bench compare published fmt golden tiny inputs pictures evaluate-edit ablate avatars-64 avatars-64-train avatars-128 avatars-128-train venv own

demo: own
	$(CARGO) run --release --locked -- generate --class $(CLASS) --seed 7 --count 16 --grid --scale 4 -o demo.png
	@echo "demo.png: sixteen pictures of the class $(CLASS); make demo CLASS=... draws another"

test: test-rust test-cuda-kernels test-c test-python

# Clones may share the target folder, and cargo would take another clone's build of this package for its own where the dates allow.
own:
	@mkdir -p "$(CARGO_TARGET_DIR)"
	@if [ "$$(cat "$(CARGO_TARGET_DIR)/.maskgit-clone" 2>/dev/null)" != "$(CURDIR)" ]; then \
		$(CARGO) clean --quiet --release --package maskgit && echo "$(CURDIR)" > "$(CARGO_TARGET_DIR)/.maskgit-clone"; fi

# The second and the third: the GPU's kernels, run on the CPU.
test-rust: own
	$(CARGO) test --release --locked
	$(CARGO) test --release --locked --features cuda --lib --test command -- cuda device
	$(CARGO) test --release --locked --features cuda --test cuda

# NVRTC comes with the packages of the tests; MASKGIT_NVRTC may name another.
NVRTC = $(firstword $(wildcard $(VENV)/lib/python3*/site-packages/nvidia/cu13/lib/libnvrtc.so.13 $(VENV)/lib/python3*/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12))
test-cuda-kernels: own $(VENV_STAMP)
	MASKGIT_NVRTC="$${MASKGIT_NVRTC:-$(NVRTC)}" $(CARGO) test --release --locked --features cuda --lib -- --include-ignored cuda::tests::kernels

# On a machine without a GPU it says so, and is done.
test-cuda: own
	$(CARGO) build --release --locked --features cuda
	@if "$(MASKGIT)" info --devices | tee /dev/stderr | grep '^cuda' | grep -qv 'not usable'; then \
		$(CARGO) test --release --locked --features cuda --lib -- --include-ignored cuda::tests::device; \
	else echo "make test-cuda: no usable GPU here, so nothing was tested on one"; fi

bench-cuda: own $(VENV_STAMP)
	$(CARGO) build --release --locked --features cuda
	test -d "$(COMPARE)/fp32" || $(EXPORT) synth --shape maskgit-imagenet256 -o "$(COMPARE)/fp32"
	test -d "$(COMPARE)/fp16" || $(EXPORT) half "$(COMPARE)/fp32" -o "$(COMPARE)/fp16"
	test -d "$(COMPARE)/int8" || $(EXPORT) quantize "$(COMPARE)/fp32" $(RANDOM) -o "$(COMPARE)/int8"
	PYTHONPATH="$(CURDIR)/export" "$(VENV_PYTHON)" benches/compare/cuda.py --command "$(MASKGIT)" --torch maskgit-imagenet256 -o benches/RESULTS-cuda.md \
		models/avatars-64 models/avatars-64-int8 "$(COMPARE)/fp32" "$(COMPARE)/fp16" "$(COMPARE)/int8"

# The version of the interface: the library's soname ends with it, and src/capi says it as MASKGIT_ABI_VERSION.
ABI := $(shell sed -n 's/^\#define MASKGIT_ABI_VERSION \([0-9]*\).*/\1/p' include/maskgit.h)
SONAME := libmaskgit.so.$(ABI)
capi: own
	$(CARGO) rustc --release --locked --lib --features capi --crate-type cdylib,staticlib -- -Clink-arg=-Wl,-soname,$(SONAME)
	ln -sf libmaskgit.so "$(CARGO_TARGET_DIR)/release/$(SONAME)"

test-c: capi
	$(CARGO) build --release --locked
	.ci/header --check
	command -v valgrind > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends valgrind; }
	tests/c/run --sanitizers "$(CARGO_TARGET_DIR)/release" "$(CARGO_TARGET_DIR)/release/maskgit"

header:
	.ci/header

arm:
	.ci/arm

# Where the C library goes. `make install DESTDIR=...` for packages.
PREFIX ?= /usr/local
INSTALLED = $(DESTDIR)$(PREFIX)
install: capi
	install -D -m 644 include/maskgit.h "$(INSTALLED)/include/maskgit.h"
	install -D -m 755 "$(CARGO_TARGET_DIR)/release/libmaskgit.so" "$(INSTALLED)/lib/$(SONAME)"
	ln -sf $(SONAME) "$(INSTALLED)/lib/libmaskgit.so"
	install -D -m 644 "$(CARGO_TARGET_DIR)/release/libmaskgit.a" "$(INSTALLED)/lib/libmaskgit.a"
	mkdir -p "$(INSTALLED)/lib/pkgconfig"
	sed 's|@PREFIX@|$(PREFIX)|' src/capi/maskgit.pc.in > "$(INSTALLED)/lib/pkgconfig/maskgit.pc"

uninstall:
	rm -f "$(INSTALLED)/include/maskgit.h" "$(INSTALLED)/lib/$(SONAME)" "$(INSTALLED)/lib/libmaskgit.so"
	rm -f "$(INSTALLED)/lib/libmaskgit.a" "$(INSTALLED)/lib/pkgconfig/maskgit.pc"

# The built command goes along, so that the package's tests compare PyTorch with our engine.
test-python: own $(VENV_STAMP)
	$(CARGO) build --release --locked
	cd export && MASKGIT_BIN="$(CARGO_TARGET_DIR)/release/maskgit" PYTHONPATH="$(CURDIR)/export" "$(VENV_PYTHON)" -m pytest -q

venv: $(VENV_STAMP)

$(VENV_STAMP): export/pyproject.toml
	test -x "$(VENV_PYTHON)" || $(PYTHON) -m venv "$(VENV)"
	"$(VENV_PYTHON)" -m pip install --quiet --disable-pip-version-check -e './export[test]'
	rm -f "$(VENV)"/.maskgit-*
	touch "$@"

lint: own
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	$(CARGO) clippy --release --locked --lib --tests --features capi -- -D warnings
	$(CARGO) clippy --release --locked --all-targets --features cuda -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --no-deps

bench: own
	$(CARGO) bench --locked
	$(CARGO) run --release --locked -- bench

# Our engine beside ONNX Runtime, on the bundled model and on the ImageNet-256 architecture with random weights: benches/RESULTS.md.
COMPARE = $(MASKGIT_CACHE)/compare
# Logits of random weights are nearly flat, so that their cosine would keep layers in fp32 that a trained model has in int8.
RANDOM = --steps 2 --pictures 2 --min-cosine 0 --min-psnr 0
compare: own $(VENV_STAMP)
	$(CARGO) build --release --locked
	test -d "$(COMPARE)/fp32" || { $(EXPORT) synth --shape maskgit-imagenet256 -o "$(COMPARE)/fp32"; }
	test -d "$(COMPARE)/int8" || { $(EXPORT) quantize "$(COMPARE)/fp32" $(RANDOM) -o "$(COMPARE)/int8"; }
	test -d "$(COMPARE)/avatars-fp16" || { $(EXPORT) half ../models/avatars-64 -o "$(COMPARE)/avatars-fp16"; }
	PYTHONPATH="$(CURDIR)/export" "$(VENV_PYTHON)" benches/compare/compare.py --command "$(MASKGIT)" \
		--bundle avatars-64=models/avatars-64,$(COMPARE)/avatars-fp16,models/avatars-64-int8 --turns 5 --runs 7 -o benches/RESULTS.md
	PYTHONPATH="$(CURDIR)/export" "$(VENV_PYTHON)" benches/compare/compare.py --command "$(MASKGIT)" \
		--bundle maskgit-imagenet256=$(COMPARE)/fp32,$(COMPARE)/int8 --steps 8 --turns 2 --runs 1 -o benches/RESULTS-imagenet256.md

published: own $(VENV_STAMP)
	$(CARGO) build --release --locked && $(RECIPE)/published.sh

fmt:
	$(CARGO) fmt

golden: own
	MASKGIT_BLESS=1 $(CARGO) test --release --locked --test avatars golden
	MASKGIT_BLESS=1 $(CARGO) test --release --locked --test precision everywhere
	git diff --stat -- tests/golden

tiny: $(VENV_STAMP)
	"$(VENV_PYTHON)" tests/data/make_tiny.py

inputs: $(VENV_STAMP)
	"$(VENV_PYTHON)" tests/data/make_inputs.py

pictures: own $(VENV_STAMP)
	$(CARGO) build --release --locked && $(RECIPE)/pictures.sh

MASKGIT = $(CARGO_TARGET_DIR)/release/maskgit
EXPORT = cd export && "$(VENV_PYTHON)" -m maskgit_export
# export/recipes: what a recipe's variables are is said there; those given to make go on to it.
RECIPE = VENV_PYTHON="$(VENV_PYTHON)" MASKGIT="$(MASKGIT)" export/recipes

evaluate-edit: own $(VENV_STAMP)
	$(CARGO) build --release --locked && $(RECIPE)/evaluate-edit.sh

ablate: own $(VENV_STAMP)
	$(CARGO) build --release --locked && $(RECIPE)/ablate.sh

avatars-64-train: $(VENV_STAMP)
	$(RECIPE)/avatars-64-train.sh

avatars-64: own $(VENV_STAMP)
	$(CARGO) build --release --locked && $(RECIPE)/avatars-64.sh

avatars-128-train: $(VENV_STAMP)
	$(RECIPE)/avatars-128-train.sh

avatars-128: own $(VENV_STAMP)
	$(CARGO) build --release --locked && $(RECIPE)/avatars-128.sh
