#!/bin/sh
# Converts random checkpoints of every published shape and measures the bundles, at full size:
# benches/RESULTS-published.md and the table of docs/models.md (hours, 40 GB of disk).
#
# First it makes all bundles, then it times them beside ONNX Runtime. What was measured before is not measured again.
set -eu
# shellcheck source=export/recipes/common.sh
. "$(dirname "$0")/common.sh"
WORK=${PUBLISHED:-$MASKGIT_CACHE/published}
# Each shape with the format of its checkpoint.
: "${SHAPES:=maskgit-imagenet256:flax maskgit-imagenet512:torch \
halton-t-256:torch halton-s-256:safetensors halton-b-256:torch halton-l-256:torch \
halton-t-384:torch halton-s-384:safetensors halton-b-384:torch halton-l-384:torch}"

needs_program
measure() {
    # Words of SHAPES are arguments.
    # shellcheck disable=SC2086
    PYTHONPATH="$ROOT/export" "$VENV_PYTHON" benches/published.py --command "$MASKGIT" --work "$WORK" \
        -o benches/RESULTS-published.md "$@" $SHAPES
}
cd "$ROOT"
measure
measure --times --page docs/models.md
