# shellcheck shell=sh
# What the recipes share: read by them with `.`, not a program of its own.

# The folder of the clone.
ROOT=$(cd "$(dirname "$0")/../.." && pwd)

# These may be set in the environment. Everything that a recipe makes lies here, outside the clone.
: "${MASKGIT_CACHE:=$HOME/.cache/maskgit}"
# Python with the package and what its extras need: `make venv` makes this one.
: "${VENV_PYTHON:=$MASKGIT_CACHE/venv/bin/python}"
# The maskgit program: `cargo build --release` makes this one.
: "${MASKGIT:=${CARGO_TARGET_DIR:-$ROOT/target}/release/maskgit}"

# The recipes change the folder.
case $VENV_PYTHON in [!/]*/*) VENV_PYTHON=$PWD/$VENV_PYTHON ;; esac
case $MASKGIT in [!/]*/*) MASKGIT=$PWD/$MASKGIT ;; esac

# `maskgit_export COMMAND ...` runs a command of the package, in its folder.
maskgit_export() {
    (cd "$ROOT/export" && "$VENV_PYTHON" -m maskgit_export "$@")
}

# Installs more of the package's dependencies: needs data,evaluate
needs() {
    "$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check -e "$ROOT/export[$1]"
}

# Ends the recipe where the maskgit program is not there.
needs_program() {
    if ! command -v "$MASKGIT" > /dev/null; then
        echo "$MASKGIT: not there; build it with \`cargo build --release\`, or name another with MASKGIT" >&2
        exit 1
    fi
}
