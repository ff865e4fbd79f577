#!/bin/sh
# shellcheck disable=SC2086 # Lists of words are meant to be split.
#
# Draws the data of avatars-128 and trains it, from avatars-64 (a day and more on two cores).
#
# Nothing is redone that is there already, and what was interrupted goes on: a file of a later stage says that those
# before are finished. A GPU takes it from nothing: see export/README.md.
set -eu
# shellcheck source=export/recipes/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=export/recipes/avatars-128-settings.sh
. "$ROOT/export/recipes/avatars-128-settings.sh"

needs data,evaluate

# Whether the stage that makes this file is still to do, or to finish: until the stage after it has begun.
until_there() {
    [ ! -f "$WORK/$1" ]
}

tokenizer() {
    command=$1
    shift
    "$command" train-tokenizer --data "$WORK/data" --perceptual "$WORK/perceptual.pt" "$@"
}

mvtm() {
    train train-mvtm --data "$WORK/data" --tokenizer "$WORK/tokenizer.pt" $WIDE_128 --label-smoothing 0 "$@"
}

# 1. The data, and a classifier whose features pictures are to agree in.
if until_there data/classes.json; then
    maskgit_export data --set avatars-128 -o "$WORK/data"
fi
if until_there perceptual.pt; then
    maskgit_export train-classifier --data "$WORK/data" --images 20000 --seed 2 -o "$WORK/perceptual.pt"
fi

# 2. The tokenizer: on squares, on whole pictures, its decoder against a discriminator, then everything once more.
if until_there tokenizer-2.pt; then
    tokenizer maskgit_export --perceptual-weight 0.05 --factor 8 --width 128 --codes 1024 --blocks 3 \
        --encoder-blocks 2 --crop 64 --batch 32 --images 64000 --muon-lr 0.01 -o "$WORK/tokenizer-1.pt"
fi
if until_there tokenizer-3.pt; then
    tokenizer maskgit_export --perceptual-weight 0.05 --start "$WORK/tokenizer-1.pt" --images 20000 \
        --muon-lr 0.01 -o "$WORK/tokenizer-2.pt"
fi
if until_there tokenizer.pt; then
    tokenizer maskgit_export --perceptual-weight 0.05 --start "$WORK/tokenizer-2.pt" --decoder-only \
        --images 12000 --muon-lr 0.006 --adversarial-from 0.3 -o "$WORK/tokenizer-3.pt"
fi
if until_there mvtm-1.pt; then
    tokenizer train --perceptual-weight 0.1 --contrast-weight 0.2 --start "$WORK/tokenizer-3.pt" \
        --crop 96 --batch 8 --images 96000 --muon-lr 0.005 -o "$WORK/tokenizer.pt"
fi

# 3. The transformer grows: avatars-64's, then two layers more, then twice as wide. START_128="" lets it begin from
# nothing, as a GPU does; START_128="--start WEIGHTS TOKENIZER" from something else.
if [ -n "${START_128-grown}" ]; then
    if until_there mvtm-2.pt; then
        train train-mvtm --data "$WORK/data" --tokenizer "$WORK/tokenizer-2.pt" --start ../models/avatars-64 \
            --depth 8 --per-class 2000 --label-smoothing 0 --images 224000 -o "$WORK/mvtm-1.pt"
    fi
    if until_there mvtm-3.pt; then
        mvtm --start "$WORK/mvtm-1.pt" "$WORK/tokenizer-2.pt" --per-class 2000 --images 64000 -o "$WORK/mvtm-2.pt"
    fi
fi

# 4. It learns to correct its own draws, most of all in the classes that are hard,
if until_there mvtm-4.pt; then
    if [ "${START_128+given}" ]; then
        set -- $START_128
    else
        set -- --start "$WORK/mvtm-2.pt" "$WORK/tokenizer.pt"
    fi
    mvtm "$@" --drafts 0.3 --by-loss 2 --images "$IMAGES_128" -o "$WORK/mvtm-3.pt"
fi

# then only in those that it is to have,
again() {
    start=$1
    shift
    mvtm --start "$WORK/$start" "$WORK/tokenizer.pt" --without $WITHOUT_128 --drafts 0.3 --lr 0.0008 \
        --muon-lr 0.008 "$@"
}
if until_there mvtm-5.pt; then
    again mvtm-3.pt --by-loss 3 --images 137000 -o "$WORK/mvtm-4.pt"
fi
if until_there mvtm-6.pt; then
    again mvtm-4.pt --by-loss 2 --class-weights $WEIGHTS_128 --images 260000 -o "$WORK/mvtm-5.pt"
fi
if until_there mvtm.pt; then
    again mvtm-5.pt --by-loss 2 --class-weights $LATER_WEIGHTS_128 --images 200000 -o "$WORK/mvtm-6.pt"
fi

# 5. and at last most of all in those whose eyes and mouths were still out of shape, with more pictures of one class.
if until_there tokens.npz; then
    train tokens --data "$WORK/data" --tokenizer "$WORK/tokenizer.pt" -o "$WORK/tokens.npz"
fi
if until_there more/classes.json; then
    maskgit_export data --set avatars-128 $MORE_128 --work "$WORK/data/node" -o "$WORK/more"
fi
if until_there tokens-more.npz; then
    train tokens --data "$WORK/more" --tokenizer "$WORK/tokenizer.pt" -o "$WORK/tokens-more.npz"
fi
train train-mvtm --data "$WORK/tokens.npz" --more "$WORK/tokens-more.npz" $WIDE_128 --label-smoothing 0 \
    --start "$WORK/mvtm-6.pt" "$WORK/tokenizer.pt" --without $WITHOUT_128 --drafts 0.3 --lr 0.0008 --muon-lr 0.008 \
    --by-loss 2 --class-weights $LAST_WEIGHTS_128 --images 120000 -o "$WORK/mvtm.pt"
