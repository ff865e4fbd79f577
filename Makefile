# make demo        draw a sheet of the bundled model: demo.png
# make check       format, lint and the fast tests: what to run while working
# make test        what a newcomer runs: cargo only, no root
# make test-all    everything else: features, C, documentation, packages, Python, emulated ARM (installs what it needs)
# make install     the command with its manual, completions and a model, into PREFIX (/usr/local) under DESTDIR
# make install-lib the C library, its header, pkg-config and CMake files; make uninstall takes both away
# make fmt         format the Rust and Python code
#
# Parts of test-all, and what is run by hand:
#
# make test-features   the C interface's and the GPU's Rust tests; the GPU's kernels on the CPU
# make test-c          the C library under test: C and C++ programs, sanitizers, symbols, header
# make test-docs       every command in the documentation, as written, in order
# make test-package    the crates as they would be published: size and contents
# make test-api        the public interface against docs/api.txt; make api writes it anew
# make test-python     lint and tests of export/
# make test-arm        64-bit ARM in an emulator; make test-armv7: 32-bit ARM; make test-mobile: Android and iOS, type-checked
# make fuzz TIME=600   libFuzzer on every door for bytes of strangers, so many seconds each; TARGET=packed: one of them
# make test-cuda       the GPU's tests, where there is a GPU; make test-cuda-kernels: every kernel compiled, without one
# make deny            licences and sources of the dependencies; make advisories: known faults too, from GitHub's list
# make loom            the pool of threads in a model of all their orders; make miri: its unsafe code, by nightly's Miri
# make soak IMAGES=5000   one process for thousands of images: memory, descriptors and threads stay
# make bench           Criterion benches and `maskgit bench`
# make bench-cuda      measure on a GPU: benches/RESULTS-cuda.md
# make compare         our engine beside ONNX Runtime: benches/RESULTS.md, benches/RESULTS-imagenet256.md
# make header, golden, tiny, inputs   write include/maskgit.h, tests/golden, tests/data anew
# make published, pictures, evaluate-edit, ablate, avatars-64, avatars-128   long work: export/recipes
#
# What is built goes to target/, as with cargo alone. What Python needs lies outside the clone, in MASKGIT_CACHE.

MASKGIT_CACHE ?= $(HOME)/.cache/maskgit
export MASKGIT_CACHE
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR

CARGO ?= cargo
PYTHON ?= python3
VENV := $(MASKGIT_CACHE)/venv
VENV_PYTHON := $(VENV)/bin/python
# A change of the Python package's dependencies installs them again.
VENV_STAMP := $(VENV)/.maskgit-$(firstword $(shell cksum export/pyproject.toml 2>/dev/null))
RELEASE = $(CARGO_TARGET_DIR)/release
MASKGIT = $(RELEASE)/maskgit
CLASS ?= lorelei

# The crates that do without tract.
FAST = $(foreach crate,core sample geometry image bundle kernels,-p maskgit-$(crate))

.PHONY: demo check fmt test test-all test-features test-c test-docs test-package test-api api test-python test-arm \
	test-armv7 test-mobile test-cuda test-cuda-kernels deny advisories fuzz loom miri soak \
	bench bench-cuda compare capi header install install-lib uninstall \
	golden tiny inputs venv published pictures evaluate-edit ablate avatars-64 avatars-64-train avatars-128 avatars-128-train

demo:
	$(CARGO) run --release --locked -- generate --class $(CLASS) --seed 7 --count 16 --grid --scale 2 -o demo.png
	@echo "demo.png: sixteen images of the class $(CLASS); make demo CLASS=... draws another"

# The lints of all crates take the checked metadata of tract once; the tests do without it.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --features maskgit/unstable,maskgit/capi -- -D warnings
	$(CARGO) test --locked --quiet $(FAST)

fmt: $(VENV_STAMP)
	$(CARGO) fmt --all
	"$(VENV)/bin/ruff" format .

test:
	$(CARGO) test --release --locked --workspace --features maskgit/unstable

test-all: test-features test-c test-docs test-package test-api deny loom test-python test-arm test-armv7 test-mobile

# The last: the GPU's kernels, run on the CPU.
test-features:
	$(CARGO) clippy --locked --workspace --all-targets --features maskgit/unstable,maskgit/capi,maskgit/cuda -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --features maskgit/unstable
	$(CARGO) test --release --locked --lib --features capi
	$(CARGO) test --release --locked --workspace --features maskgit/cuda --lib -- cuda
	$(CARGO) test --release --locked --features unstable,cuda --test tests -- cuda devices

test-docs:
	$(CARGO) build --release --locked
	tests/docs/run "$(MASKGIT)"

test-package:
	tests/package/run

test-api:
	tests/api/run --check

TIME ?= 600
fuzz:
	fuzz/run "$(TIME)" $(TARGET)

api:
	tests/api/run

# NVRTC comes with the packages of the Python tests; MASKGIT_NVRTC may name another.
NVRTC = $(firstword $(wildcard $(VENV)/lib/python3*/site-packages/nvidia/cu13/lib/libnvrtc.so.13 \
	$(VENV)/lib/python3*/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12))
test-cuda-kernels: $(VENV_STAMP)
	MASKGIT_NVRTC="$${MASKGIT_NVRTC:-$(NVRTC)}" $(CARGO) test --release --locked --workspace --features maskgit/cuda \
		--lib -- --include-ignored cuda::tests::kernels

# On a machine without a GPU it says so, and is done.
test-cuda:
	$(CARGO) build --release --locked --features cuda
	@if "$(MASKGIT)" info --devices | tee /dev/stderr | grep '^cuda' | grep -qv 'not usable'; then \
		$(CARGO) test --release --locked --workspace --features maskgit/cuda --lib -- --include-ignored cuda::tests::device; \
	else echo "make test-cuda: no usable GPU here, so nothing was tested on one"; fi

deny:
	tests/deny/run

advisories:
	tests/deny/run advisories

# All is compiled for the model, so it has a folder of its own.
loom:
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$(CARGO_TARGET_DIR)/loom" \
		$(CARGO) test --locked --release -p maskgit-kernels --test loom

# The tests of the crates with unsafe code that Miri can interpret: it knows no instructions written by hand, and is some
# hundred times slower. Needs: rustup component add --toolchain nightly miri rust-src
miri:
	MIRIFLAGS=-Zmiri-disable-isolation CARGO_TARGET_DIR="$(CARGO_TARGET_DIR)/miri" \
		cargo +nightly miri test --locked -p maskgit-kernels --lib

IMAGES ?= 5000
SOAKED ?= tests/data/tiny models/avatars-64-int8
soak:
	$(CARGO) bench --locked --bench soak -- $(IMAGES) $(SOAKED)

bench-cuda: $(VENV_STAMP)
	$(CARGO) build --release --locked --features cuda
	test -d "$(COMPARE)/fp32" || { $(EXPORT) synth --shape maskgit-imagenet256 -o "$(COMPARE)/fp32"; }
	test -d "$(COMPARE)/fp16" || { $(EXPORT) half "$(COMPARE)/fp32" -o "$(COMPARE)/fp16"; }
	test -d "$(COMPARE)/int8" || { $(EXPORT) quantize "$(COMPARE)/fp32" $(RANDOM) -o "$(COMPARE)/int8"; }
	PYTHONPATH="$(CURDIR)/export" "$(VENV_PYTHON)" benches/compare/cuda.py --command "$(MASKGIT)" \
		--torch maskgit-imagenet256 -o benches/RESULTS-cuda.md \
		models/avatars-64 models/avatars-64-int8 "$(COMPARE)/fp32" "$(COMPARE)/fp16" "$(COMPARE)/int8"

# The version of the interface: the library's soname ends with it, and src/capi says it as MASKGIT_ABI_VERSION.
ABI := $(shell sed -n 's/^\#define MASKGIT_ABI_VERSION \([0-9]*\).*/\1/p' include/maskgit.h)
SONAME := libmaskgit.so.$(ABI)
capi:
	$(CARGO) rustc --release --locked --lib --features capi --crate-type cdylib,staticlib -- \
		-Clink-arg=-Wl,-soname,$(SONAME)
	ln -sf libmaskgit.so "$(RELEASE)/$(SONAME)"

test-c: capi
	$(CARGO) build --release --locked
	.ci/header --check
	command -v valgrind > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends valgrind; }
	tests/c/run --sanitizers "$(RELEASE)" "$(MASKGIT)"

header:
	.ci/header

# Where `make install` puts things. `make install DESTDIR=...` for packages.
PREFIX ?= /usr/local
INSTALLED = $(DESTDIR)$(PREFIX)
MODEL_FILES = bundle.json transformer.onnx decoder.onnx encoder.onnx README.md LICENSE.md
install:
	$(CARGO) build --release --locked
	install -D -m 755 "$(MASKGIT)" "$(INSTALLED)/bin/maskgit"
	mkdir -p "$(INSTALLED)/share/man/man1" "$(INSTALLED)/share/zsh/site-functions" "$(INSTALLED)/share/fish/vendor_completions.d"
	mkdir -p "$(INSTALLED)/share/bash-completion/completions" "$(INSTALLED)/share/maskgit/models/avatars-128-int8"
	"$(MASKGIT)" man -o "$(INSTALLED)/share/man/man1"
	"$(MASKGIT)" completions bash > "$(INSTALLED)/share/bash-completion/completions/maskgit"
	"$(MASKGIT)" completions zsh > "$(INSTALLED)/share/zsh/site-functions/_maskgit"
	"$(MASKGIT)" completions fish > "$(INSTALLED)/share/fish/vendor_completions.d/maskgit.fish"
	for file in $(MODEL_FILES); do \
		install -m 644 "models/avatars-128-int8/$$file" "$(INSTALLED)/share/maskgit/models/avatars-128-int8/$$file" || exit; done

install-lib: capi
	install -D -m 644 include/maskgit.h "$(INSTALLED)/include/maskgit.h"
	install -D -m 755 "$(RELEASE)/libmaskgit.so" "$(INSTALLED)/lib/$(SONAME)"
	ln -sf $(SONAME) "$(INSTALLED)/lib/libmaskgit.so"
	install -D -m 644 "$(RELEASE)/libmaskgit.a" "$(INSTALLED)/lib/libmaskgit.a"
	mkdir -p "$(INSTALLED)/lib/pkgconfig" "$(INSTALLED)/lib/cmake/maskgit"
	sed 's|@PREFIX@|$(PREFIX)|' src/capi/maskgit.pc.in > "$(INSTALLED)/lib/pkgconfig/maskgit.pc"
	sed 's|@SONAME@|$(SONAME)|' src/capi/maskgit-config.cmake.in > "$(INSTALLED)/lib/cmake/maskgit/maskgit-config.cmake"

uninstall:
	rm -f "$(INSTALLED)/bin/maskgit" "$(INSTALLED)"/share/man/man1/maskgit*.1
	rm -f "$(INSTALLED)/share/bash-completion/completions/maskgit" "$(INSTALLED)/share/zsh/site-functions/_maskgit"
	rm -f "$(INSTALLED)/share/fish/vendor_completions.d/maskgit.fish"
	rm -rf "$(INSTALLED)/share/maskgit" "$(INSTALLED)/lib/cmake/maskgit"
	rm -f "$(INSTALLED)/include/maskgit.h" "$(INSTALLED)/lib/$(SONAME)" "$(INSTALLED)/lib/libmaskgit.so"
	rm -f "$(INSTALLED)/lib/libmaskgit.a" "$(INSTALLED)/lib/pkgconfig/maskgit.pc"

# The built command goes along, so that the package's tests compare PyTorch with our engine.
test-python: $(VENV_STAMP)
	$(CARGO) build --release --locked
	"$(VENV)/bin/ruff" check . && "$(VENV)/bin/ruff" format --check .
	cd export && MASKGIT_BIN="$(MASKGIT)" PYTHONPATH="$(CURDIR)/export" "$(VENV_PYTHON)" -m pytest -q

venv: $(VENV_STAMP)

$(VENV_STAMP): export/pyproject.toml
	test -x "$(VENV_PYTHON)" || $(PYTHON) -m venv "$(VENV)"
	"$(VENV_PYTHON)" -m pip install --quiet --disable-pip-version-check -e './export[test]'
	rm -f "$(VENV)"/.maskgit-*
	touch "$@"

test-arm:
	.ci/arm

test-armv7:
	.ci/armv7

test-mobile:
	.ci/mobile

bench:
	$(CARGO) bench --locked --features unstable
	$(CARGO) run --release --locked -- bench

# Our engine beside ONNX Runtime, on the bundled model and on the ImageNet-256 architecture with random weights.
COMPARE = $(MASKGIT_CACHE)/compare
# Logits of random weights are nearly flat, so that their cosine would keep layers in fp32 that a trained model has in int8.
RANDOM = --steps 2 --pictures 2 --min-cosine 0 --min-psnr 0
compare: $(VENV_STAMP)
	$(CARGO) build --release --locked
	test -d "$(COMPARE)/fp32" || { $(EXPORT) synth --shape maskgit-imagenet256 -o "$(COMPARE)/fp32"; }
	test -d "$(COMPARE)/int8" || { $(EXPORT) quantize "$(COMPARE)/fp32" $(RANDOM) -o "$(COMPARE)/int8"; }
	test -d "$(COMPARE)/avatars-fp16" || { $(EXPORT) half ../models/avatars-64 -o "$(COMPARE)/avatars-fp16"; }
	PYTHONPATH="$(CURDIR)/export" "$(VENV_PYTHON)" benches/compare/compare.py --command "$(MASKGIT)" \
		--bundle avatars-64=models/avatars-64,$(COMPARE)/avatars-fp16,models/avatars-64-int8 --turns 5 --runs 7 \
		-o benches/RESULTS.md
	PYTHONPATH="$(CURDIR)/export" "$(VENV_PYTHON)" benches/compare/compare.py --command "$(MASKGIT)" \
		--bundle maskgit-imagenet256=$(COMPARE)/fp32,$(COMPARE)/int8 --steps 8 --turns 2 --runs 1 \
		-o benches/RESULTS-imagenet256.md

# Only after a change that is meant to change tokens.
golden:
	MASKGIT_BLESS=1 $(CARGO) test --release --locked --features unstable --test tests -- golden everywhere
	git diff --stat -- tests/golden

tiny: $(VENV_STAMP)
	"$(VENV_PYTHON)" tests/data/make_tiny.py

inputs: $(VENV_STAMP)
	"$(VENV_PYTHON)" tests/data/make_inputs.py

EXPORT = cd export && "$(VENV_PYTHON)" -m maskgit_export
# export/recipes: what a recipe's variables are is said there; those given to make go on to it.
RECIPE = VENV_PYTHON="$(VENV_PYTHON)" MASKGIT="$(MASKGIT)" export/recipes

published pictures evaluate-edit ablate avatars-64 avatars-128: $(VENV_STAMP)
	$(CARGO) build --release --locked && $(RECIPE)/$@.sh

avatars-64-train avatars-128-train: $(VENV_STAMP)
	$(RECIPE)/$@.sh
