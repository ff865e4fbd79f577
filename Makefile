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

# Every published shape at full size; then, when all bundles are made, beside ONNX Runtime. What was measured before is not measured again.
PUBLISHED = $(MASKGIT_CACHE)/published
SHAPES ?= maskgit-imagenet256:flax maskgit-imagenet512:torch \
	$(foreach pixels,256 384,halton-t-$(pixels):torch halton-s-$(pixels):safetensors halton-b-$(pixels):torch halton-l-$(pixels):torch)
published: own $(VENV_STAMP)
	$(CARGO) build --release --locked
	PYTHONPATH="$(CURDIR)/export" "$(VENV_PYTHON)" benches/published.py --command "$(MASKGIT)" --work "$(PUBLISHED)" -o benches/RESULTS-published.md $(SHAPES)
	PYTHONPATH="$(CURDIR)/export" "$(VENV_PYTHON)" benches/published.py --command "$(MASKGIT)" --work "$(PUBLISHED)" --times -o benches/RESULTS-published.md --page docs/models.md $(SHAPES)

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

# One row a class, seeds 1 to 8 unpicked; then one picture after each step.
MASKGIT = $(CARGO_TARGET_DIR)/release/maskgit
pictures: own $(VENV_STAMP)
	$(CARGO) build --release --locked
	"$(VENV_PYTHON)" docs/images/draw.py "$(MASKGIT)" docs/images
	"$(VENV_PYTHON)" docs/images/draw_edit.py "$(MASKGIT)" docs/images

# How well the bundled model repaints: models/MODEL/evaluation/edit.json and the card's section. Needs the data that `make MODEL` drew.
MODEL ?= avatars-64
MEASURED = $(MASKGIT_CACHE)/$(MODEL)
evaluate-edit: own $(VENV_STAMP)
	$(CARGO) build --release --locked
	$(EXPORT) evaluate-edit ../models/$(EDITOR_MODEL) --data "$(MEASURED)/data" --command "$(MASKGIT)" --classifier "$(MEASURED)/classifier.pt" \
		--per-class $(EDIT_IMAGES) --card ../models/$(MODEL)/README.md -o ../models/$(MODEL)/evaluation
EDIT_IMAGES ?= 20
EDITOR_MODEL ?= $(MODEL)

# What each sampling setting does: models/MODEL/ABLATIONS.md and its plots. Interrupted, it goes on where it was.
ablate: own $(VENV_STAMP)
	"$(VENV_PYTHON)" -m pip install --quiet --disable-pip-version-check -e './export[evaluate]'
	$(CARGO) build --release --locked
	test -d "$(MEASURED)/ablate/fp32" || { $(EXPORT) export --tokenizer ../models/$(MODEL) --mvtm ../models/$(MODEL) -o "$(MEASURED)/ablate/fp32"; }
	test -d "$(MEASURED)/ablate/fp16" || { $(EXPORT) half "$(MEASURED)/ablate/fp32" -o "$(MEASURED)/ablate/fp16"; }
	$(EXPORT) ablate ../models/$(MODEL)-int8 --data "$(MEASURED)/data" --command "$(MASKGIT)" --classifier "$(MEASURED)/classifier.pt" \
		--also "$(MEASURED)/ablate/fp32" "$(MEASURED)/ablate/fp16" --steps 8 --more-steps 16 --per-class $(ABLATE_IMAGES) --seeds $(ABLATE_SEEDS) --threads 1 --work "$(MEASURED)/ablate/work" \
		--page ../models/$(MODEL)/ABLATIONS.md -o ../models/$(MODEL)/evaluation
ABLATE_IMAGES ?= 8
ABLATE_SEEDS ?= 3

# The bundles are made outside the clone; copy them over models/avatars-64 and models/avatars-64-int8 when they are as good.
WORK = $(MASKGIT_CACHE)/avatars-64
EXPORT = cd export && "$(VENV_PYTHON)" -m maskgit_export
avatars-64-train: $(VENV_STAMP)
	"$(VENV_PYTHON)" -m pip install --quiet --disable-pip-version-check -e './export[data,evaluate]'
	test -f "$(WORK)/data/classes.json" || { $(EXPORT) data -o "$(WORK)/data"; }
	test -f "$(WORK)/mvtm.pt" || { $(EXPORT) train-tokenizer --data "$(WORK)/data" --images 16608 -o "$(WORK)/tokenizer.pt"; }
	$(EXPORT) train-mvtm --data "$(WORK)/data" --tokenizer "$(WORK)/tokenizer.pt" --images 186816 --label-smoothing 0 -o "$(WORK)/mvtm.pt"

avatars-64: own avatars-64-train
	$(CARGO) build --release --locked
	$(EXPORT) train-tokenizer --data "$(WORK)/data" --start "$(WORK)/tokenizer.pt" --decoder-only --images 8576 --muon-lr 0.01 -o "$(WORK)/tokenizer-final.pt"
	$(EXPORT) export --tokenizer "$(WORK)/tokenizer-final.pt" --mvtm "$(WORK)/mvtm.pt" --without thumbs --name avatars-64 --licence "CC BY 4.0; see README.md" \
		--source "trained with maskgit-export" --steps 16 --temperature 0.8 --guidance 0.5 --guidance-ramp -o "$(WORK)/bundle"
	$(EXPORT) verify "$(WORK)/bundle" --checkpoint "$(WORK)/tokenizer-final.pt" "$(WORK)/mvtm.pt" --command "$(MASKGIT)" --write-reference
	$(EXPORT) train-classifier --data "$(WORK)/data" --images 16000 -o "$(WORK)/classifier.pt"
	$(EXPORT) evaluate "$(WORK)/bundle" --data "$(WORK)/data" --command "$(MASKGIT)" --classifier "$(WORK)/classifier.pt" \
		--per-class 160 --heldout 60 --card "$(WORK)/README.md" -o "$(WORK)/evaluation"
	$(EXPORT) quantize "$(WORK)/bundle" --name avatars-64-int8 --command "$(MASKGIT)" -o "$(WORK)/bundle-int8"
	$(EXPORT) evaluate "$(WORK)/bundle-int8" --data "$(WORK)/data" --command "$(MASKGIT)" --classifier "$(WORK)/classifier.pt" \
		--per-class 160 --heldout 60 -o "$(WORK)/evaluation-int8"

# Nothing here is redone that is there already, and what was interrupted goes on: a file of a later network says that those before are finished.
# The transformer grows: avatars-64's, then two layers more, then twice as wide; then it learns to correct its own draws, most of all in the classes that are hard, then only in those that it is to have, at last most of all in those
# whose eyes and mouths were still out of shape, with more pictures of the class that it had begun to know by heart. The decoder comes last, larger, on tokens that do not change any more. A GPU takes one from nothing: see export/README.md.
# Two processes of one thread are faster than one of two; a GPU wants one process, TRAIN_128="python -m maskgit_export" with the Python of VENV.
WORK_128 = $(MASKGIT_CACHE)/avatars-128
WIDE_128 ?= --dim 384 --heads 12 --depth 8 --batch 32
START_128 ?= --start "$(WORK_128)/mvtm-2.pt" "$(WORK_128)/tokenizer.pt"
IMAGES_128 ?= 416000
WITHOUT_128 ?= croodles shapes
WEIGHTS_128 ?= adventurer=4 big-ears=4 pixel-art=4 cats=3 open-peeps=3
DECODER_128 ?= --blocks 12 --without $(WITHOUT_128) --square-weight 10 --contrast-weight 0.2 --muon-lr 0.015 --images 280000
LATER_WEIGHTS_128 ?= big-ears=4 toon-head=4 open-peeps=4 pixel-art=4 fun-emoji=3 cats=2
LAST_WEIGHTS_128 ?= adventurer=1.25 open-peeps=5 lorelei=4 big-ears=3 big-smile=1.5 micah=1.5 heads=1.5 notionists=1.5
MORE_128 ?= --classes adventurer --train 16000
TRAIN_128 ?= env OMP_NUM_THREADS=1 "$(VENV)/bin/torchrun" --nproc_per_node=$(shell nproc) -m -- maskgit_export
MVTM_128 = train-mvtm --data "$(WORK_128)/data" --tokenizer "$(WORK_128)/tokenizer.pt" $(WIDE_128) --label-smoothing 0
AGAIN_128 = --without $(WITHOUT_128) --drafts 0.3 --lr 0.0008 --muon-lr 0.008
TOKENIZER_128 = train-tokenizer --data "$(WORK_128)/data" --perceptual "$(WORK_128)/perceptual.pt"
avatars-128-train: $(VENV_STAMP)
	"$(VENV_PYTHON)" -m pip install --quiet --disable-pip-version-check -e './export[data,evaluate]'
	test -f "$(WORK_128)/data/classes.json" || { $(EXPORT) data --set avatars-128 -o "$(WORK_128)/data"; }
	test -f "$(WORK_128)/perceptual.pt" || { $(EXPORT) train-classifier --data "$(WORK_128)/data" --images 20000 --seed 2 -o "$(WORK_128)/perceptual.pt"; }
	test -f "$(WORK_128)/tokenizer-2.pt" || { $(EXPORT) $(TOKENIZER_128) --perceptual-weight 0.05 --factor 8 --width 128 --codes 1024 --blocks 3 --encoder-blocks 2 \
		--crop 64 --batch 32 --images 64000 --muon-lr 0.01 -o "$(WORK_128)/tokenizer-1.pt"; }
	test -f "$(WORK_128)/tokenizer-3.pt" || { $(EXPORT) $(TOKENIZER_128) --perceptual-weight 0.05 --start "$(WORK_128)/tokenizer-1.pt" \
		--images 20000 --muon-lr 0.01 -o "$(WORK_128)/tokenizer-2.pt"; }
	test -f "$(WORK_128)/tokenizer.pt" || { $(EXPORT) $(TOKENIZER_128) --perceptual-weight 0.05 --start "$(WORK_128)/tokenizer-2.pt" --decoder-only \
		--images 12000 --muon-lr 0.006 --adversarial-from 0.3 -o "$(WORK_128)/tokenizer-3.pt"; }
	test -f "$(WORK_128)/mvtm-1.pt" || { cd export && $(TRAIN_128) $(TOKENIZER_128) --perceptual-weight 0.1 --contrast-weight 0.2 --start "$(WORK_128)/tokenizer-3.pt" \
		--crop 96 --batch 8 --images 96000 --muon-lr 0.005 -o "$(WORK_128)/tokenizer.pt"; }
	test -f "$(WORK_128)/mvtm-2.pt" -o -z "$(firstword $(START_128))" || { cd export && $(TRAIN_128) train-mvtm --data "$(WORK_128)/data" --tokenizer "$(WORK_128)/tokenizer-2.pt" \
		--start ../models/avatars-64 --depth 8 --per-class 2000 --label-smoothing 0 --images 224000 -o "$(WORK_128)/mvtm-1.pt"; }
	test -f "$(WORK_128)/mvtm-3.pt" -o -z "$(firstword $(START_128))" || { cd export && $(TRAIN_128) $(MVTM_128) \
		--start "$(WORK_128)/mvtm-1.pt" "$(WORK_128)/tokenizer-2.pt" --per-class 2000 --images 64000 -o "$(WORK_128)/mvtm-2.pt"; }
	test -f "$(WORK_128)/mvtm-4.pt" || { cd export && $(TRAIN_128) $(MVTM_128) $(START_128) --drafts 0.3 --by-loss 2 --images $(IMAGES_128) -o "$(WORK_128)/mvtm-3.pt"; }
	test -f "$(WORK_128)/mvtm-5.pt" || { cd export && $(TRAIN_128) $(MVTM_128) --start "$(WORK_128)/mvtm-3.pt" "$(WORK_128)/tokenizer.pt" $(AGAIN_128) --by-loss 3 --images 137000 -o "$(WORK_128)/mvtm-4.pt"; }
	test -f "$(WORK_128)/mvtm-6.pt" || { cd export && $(TRAIN_128) $(MVTM_128) --start "$(WORK_128)/mvtm-4.pt" "$(WORK_128)/tokenizer.pt" $(AGAIN_128) --by-loss 2 --class-weights $(WEIGHTS_128) --images 260000 -o "$(WORK_128)/mvtm-5.pt"; }
	test -f "$(WORK_128)/mvtm.pt" || { cd export && $(TRAIN_128) $(MVTM_128) --start "$(WORK_128)/mvtm-5.pt" "$(WORK_128)/tokenizer.pt" $(AGAIN_128) --by-loss 2 --class-weights $(LATER_WEIGHTS_128) --images 200000 -o "$(WORK_128)/mvtm-6.pt"; }
	test -f "$(WORK_128)/tokens.npz" || { cd export && $(TRAIN_128) tokens --data "$(WORK_128)/data" --tokenizer "$(WORK_128)/tokenizer.pt" -o "$(WORK_128)/tokens.npz"; }
	test -f "$(WORK_128)/more/classes.json" || { $(EXPORT) data --set avatars-128 $(MORE_128) --work "$(WORK_128)/data/node" -o "$(WORK_128)/more"; }
	test -f "$(WORK_128)/tokens-more.npz" || { cd export && $(TRAIN_128) tokens --data "$(WORK_128)/more" --tokenizer "$(WORK_128)/tokenizer.pt" -o "$(WORK_128)/tokens-more.npz"; }
	cd export && $(TRAIN_128) train-mvtm --data "$(WORK_128)/tokens.npz" --more "$(WORK_128)/tokens-more.npz" $(WIDE_128) --label-smoothing 0 \
		--start "$(WORK_128)/mvtm-6.pt" "$(WORK_128)/tokenizer.pt" $(AGAIN_128) --by-loss 2 --class-weights $(LAST_WEIGHTS_128) --images 120000 -o "$(WORK_128)/mvtm.pt"

# The bundles are made outside the clone; copy them over models/avatars-128 (bundle-fp16) and models/avatars-128-int8 when they are as good.
avatars-128: own avatars-128-train
	$(CARGO) build --release --locked
	cd export && $(TRAIN_128) train-tokenizer --data "$(WORK_128)/data" --tokens "$(WORK_128)/tokens.npz" --start "$(WORK_128)/tokenizer.pt" --decoder-only $(DECODER_128) -o "$(WORK_128)/tokenizer-final.pt"
	$(EXPORT) export --tokenizer "$(WORK_128)/tokenizer-final.pt" --mvtm "$(WORK_128)/mvtm.pt" --name avatars-128 --licence "CC BY 4.0; see README.md" \
		--source "trained with maskgit-export" --steps 64 --sampler predictor-corrector --choice-temperature 4.5 --temperature 1 --final-temperature 0.3 -o "$(WORK_128)/bundle"
	$(EXPORT) verify "$(WORK_128)/bundle" --checkpoint "$(WORK_128)/tokenizer-final.pt" "$(WORK_128)/mvtm.pt" --command "$(MASKGIT)"
	test -f "$(WORK_128)/classifier.pt" || { $(EXPORT) train-classifier --data "$(WORK_128)/data" --images 60000 -o "$(WORK_128)/classifier.pt"; }
	rm -rf "$(WORK_128)/bundle-int8" "$(WORK_128)/bundle-fp16"
	$(EXPORT) quantize "$(WORK_128)/bundle" --name avatars-128-int8 --command "$(MASKGIT)" -o "$(WORK_128)/bundle-int8"
	$(EXPORT) half "$(WORK_128)/bundle" --name avatars-128 --command "$(MASKGIT)" -o "$(WORK_128)/bundle-fp16"
	$(EXPORT) evaluate "$(WORK_128)/bundle-int8" --data "$(WORK_128)/data" --command "$(MASKGIT)" --classifier "$(WORK_128)/classifier.pt" \
		--per-class 40 --heldout 60 --contact 16 --card "$(WORK_128)/bundle-fp16/README.md" -o "$(WORK_128)/bundle-fp16/evaluation"
