#!/bin/sh
# Draws the pictures of docs/images anew, with the bundled models: one row a class, seeds 1 to 8 unpicked; then one
# picture after each step; then the edits.
set -eu
# shellcheck source=export/recipes/common.sh
. "$(dirname "$0")/common.sh"

needs_program
cd "$ROOT"
"$VENV_PYTHON" docs/images/draw.py "$MASKGIT" docs/images
"$VENV_PYTHON" docs/images/draw_edit.py "$MASKGIT" docs/images
