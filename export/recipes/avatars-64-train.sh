#!/bin/sh
# Draws the data of models/avatars-64 and trains the networks (hours).
#
# Interrupted, it goes on where it was: a file of a later stage says that those before are finished.
set -eu
# shellcheck source=export/recipes/common.sh
. "$(dirname "$0")/common.sh"
WORK=${WORK:-$MASKGIT_CACHE/avatars-64}

needs data,evaluate

if [ ! -f "$WORK/data/classes.json" ]; then
    maskgit_export data -o "$WORK/data"
fi

if [ ! -f "$WORK/mvtm.pt" ]; then
    maskgit_export train-tokenizer --data "$WORK/data" --images 16608 -o "$WORK/tokenizer.pt"
fi

maskgit_export train-mvtm --data "$WORK/data" --tokenizer "$WORK/tokenizer.pt" --images 186816 \
    --label-smoothing 0 -o "$WORK/mvtm.pt"
