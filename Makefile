# make demo     draw a sheet of the bundled model: demo.png
# make test     all tests: Rust, then Python in an environment made here
# make lint     rustfmt, clippy and rustdoc, warnings denied
# make bench    Criterion benches and `maskgit bench`
# make fmt      format the Rust code
# make golden   write tests/golden anew, after a change that is meant to change tokens
# make tiny     write tests/data/tiny anew
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

.PHONY: demo test test-rust test-python lint bench fmt golden tiny venv own

demo: own
	$(CARGO) run --release --locked -- generate --class $(CLASS) --seed 7 --count 16 --grid --scale 4 -o demo.png
	@echo "demo.png: sixteen pictures of the class $(CLASS); make demo CLASS=... draws another"

test: test-rust test-python

# Clones may share the target folder, and cargo would take another clone's build of this package for its own where the dates allow.
own:
	@mkdir -p "$(CARGO_TARGET_DIR)"
	@if [ "$$(cat "$(CARGO_TARGET_DIR)/.maskgit-clone" 2>/dev/null)" != "$(CURDIR)" ]; then \
		$(CARGO) clean --quiet --release --package maskgit && echo "$(CURDIR)" > "$(CARGO_TARGET_DIR)/.maskgit-clone"; fi

test-rust: own
	$(CARGO) test --release --locked

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
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --no-deps

bench: own
	$(CARGO) bench --locked --bench generate
	$(CARGO) run --release --locked -- bench

fmt:
	$(CARGO) fmt

golden: own
	MASKGIT_BLESS=1 $(CARGO) test --release --locked --test avatars golden
	git diff --stat -- tests/golden

tiny: $(VENV_STAMP)
	"$(VENV_PYTHON)" tests/data/make_tiny.py
