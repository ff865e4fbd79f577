#!/bin/sh
# Measures how well a bundled model repaints: models/MODEL/evaluation/edit.json, and the section of its card.
#
# Needs the data and the classifier that the model's own recipe made.
set -eu
# shellcheck source=export/recipes/common.sh
. "$(dirname "$0")/common.sh"
# The card and the data are MODEL's; EDITOR_MODEL draws.
: "${MODEL:=avatars-64}"
: "${EDITOR_MODEL:=$MODEL}"
: "${EDIT_IMAGES:=20}"
WORK=${MEASURED:-$MASKGIT_CACHE/$MODEL}

needs_program
maskgit_export evaluate-edit "../models/$EDITOR_MODEL" --data "$WORK/data" --command "$MASKGIT" \
    --classifier "$WORK/classifier.pt" --per-class "$EDIT_IMAGES" --card "../models/$MODEL/README.md" \
    -o "../models/$MODEL/evaluation"
