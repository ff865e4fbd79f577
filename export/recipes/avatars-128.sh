#!/bin/sh
# Repeats models/avatars-128 and models/avatars-128-int8: data, training, export, checks, measurements.
#
# The bundles are made outside the clone, in WORK_128/bundle-fp16 and WORK_128/bundle-int8; copy them over
# models/avatars-128 and models/avatars-128-int8 when they are as good.
set -eu
# shellcheck source=export/recipes/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=export/recipes/avatars-128-settings.sh
. "$ROOT/export/recipes/avatars-128-settings.sh"

needs_program
"$ROOT/export/recipes/avatars-128-train.sh"

# shellcheck disable=SC2086
train train-tokenizer --data "$WORK/data" --tokens "$WORK/tokens.npz" --start "$WORK/tokenizer.pt" --decoder-only \
    $DECODER_128 -o "$WORK/tokenizer-final.pt"

maskgit_export export --tokenizer "$WORK/tokenizer-final.pt" --mvtm "$WORK/mvtm.pt" --name avatars-128 \
    --licence "CC BY 4.0; see README.md" --source "trained with maskgit-export" --steps 64 \
    --sampler predictor-corrector --choice-temperature 4.5 --temperature 1 --final-temperature 0.3 -o "$WORK/bundle"
maskgit_export verify "$WORK/bundle" --checkpoint "$WORK/tokenizer-final.pt" "$WORK/mvtm.pt" --command "$MASKGIT"

if [ ! -f "$WORK/classifier.pt" ]; then
    maskgit_export train-classifier --data "$WORK/data" --images 60000 -o "$WORK/classifier.pt"
fi

rm -rf "$WORK/bundle-int8" "$WORK/bundle-fp16"
maskgit_export quantize "$WORK/bundle" --name avatars-128-int8 --command "$MASKGIT" -o "$WORK/bundle-int8"
maskgit_export half "$WORK/bundle" --name avatars-128 --command "$MASKGIT" -o "$WORK/bundle-fp16"
maskgit_export evaluate "$WORK/bundle-int8" --data "$WORK/data" --command "$MASKGIT" \
    --classifier "$WORK/classifier.pt" --per-class 40 --heldout 60 \
    --card "$WORK/bundle-fp16/README.md" -o "$WORK/bundle-fp16/evaluation"
