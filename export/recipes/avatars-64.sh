#!/bin/sh
# Repeats models/avatars-64 and models/avatars-64-int8 from nothing: data, training, export, checks, measurements
# (hours).
#
# The bundles are made outside the clone, in WORK/bundle and WORK/bundle-int8; copy them over those in models/ when they
# are as good.
set -eu
# shellcheck source=export/recipes/common.sh
. "$(dirname "$0")/common.sh"
WORK=${WORK:-$MASKGIT_CACHE/avatars-64}

needs_program
"$ROOT/export/recipes/avatars-64-train.sh"

# The decoder learns on, on tokens that do not change any more.
maskgit_export train-tokenizer --data "$WORK/data" --start "$WORK/tokenizer.pt" --decoder-only --images 8576 \
    --muon-lr 0.01 -o "$WORK/tokenizer-final.pt"

maskgit_export export --tokenizer "$WORK/tokenizer-final.pt" --mvtm "$WORK/mvtm.pt" --without thumbs \
    --name avatars-64 --licence "CC BY 4.0; see README.md" --source "trained with maskgit-export" \
    --steps 16 --temperature 0.8 --guidance 0.5 --guidance-ramp -o "$WORK/bundle"
maskgit_export verify "$WORK/bundle" --checkpoint "$WORK/tokenizer-final.pt" "$WORK/mvtm.pt" \
    --command "$MASKGIT" --write-reference

# Measures a bundle into a folder, with more options of `evaluate`.
measure() {
    bundle=$1 output=$2
    shift 2
    maskgit_export evaluate "$bundle" --data "$WORK/data" --command "$MASKGIT" --classifier "$WORK/classifier.pt" \
        --per-class 160 --heldout 60 -o "$output" "$@"
}

maskgit_export train-classifier --data "$WORK/data" --images 16000 -o "$WORK/classifier.pt"
measure "$WORK/bundle" "$WORK/evaluation" --card "$WORK/README.md"

rm -rf "$WORK/bundle-int8"
maskgit_export quantize "$WORK/bundle" --name avatars-64-int8 --command "$MASKGIT" -o "$WORK/bundle-int8"
measure "$WORK/bundle-int8" "$WORK/evaluation-int8"
