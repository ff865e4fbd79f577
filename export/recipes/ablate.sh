#!/bin/sh
# Measures what each sampling setting does: models/MODEL/ABLATIONS.md and its plots (an hour and more).
#
# Interrupted, it goes on where it was. Needs the data and the classifier that the model's own recipe made.
set -eu
# shellcheck source=export/recipes/common.sh
. "$(dirname "$0")/common.sh"
: "${MODEL:=avatars-64}"
: "${ABLATE_IMAGES:=8}"
: "${ABLATE_SEEDS:=3}"
WORK=${MEASURED:-$MASKGIT_CACHE/$MODEL}

needs evaluate
needs_program

if [ ! -d "$WORK/ablate/fp32" ]; then
    maskgit_export export --tokenizer "../models/$MODEL" --mvtm "../models/$MODEL" -o "$WORK/ablate/fp32"
fi
if [ ! -d "$WORK/ablate/fp16" ]; then
    maskgit_export half "$WORK/ablate/fp32" -o "$WORK/ablate/fp16"
fi

maskgit_export ablate "../models/$MODEL-int8" --data "$WORK/data" --command "$MASKGIT" \
    --classifier "$WORK/classifier.pt" --also "$WORK/ablate/fp32" "$WORK/ablate/fp16" --steps 8 --more-steps 16 \
    --per-class "$ABLATE_IMAGES" --seeds "$ABLATE_SEEDS" --threads 1 --work "$WORK/ablate/work" \
    --page "../models/$MODEL/ABLATIONS.md" -o "../models/$MODEL/evaluation"
