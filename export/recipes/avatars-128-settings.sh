# shellcheck shell=sh
# The settings of avatars-128, read by its recipes with `.`. Every one may be set in the environment; lists are words.

# shellcheck disable=SC2034 # The recipes use it.
WORK=${WORK_128:-$MASKGIT_CACHE/avatars-128}

# The transformer.
: "${WIDE_128=--dim 384 --heads 12 --depth 8 --batch 32}"
: "${IMAGES_128:=416000}"

# Classes that are not learned, and how often images of others are drawn, in three stages.
: "${WITHOUT_128=croodles shapes}"
: "${WEIGHTS_128=adventurer=4 big-ears=4 pixel-art=4 cats=3 open-peeps=3}"
: "${LATER_WEIGHTS_128=big-ears=4 toon-head=4 open-peeps=4 pixel-art=4 fun-emoji=3 cats=2}"
: "${LAST_WEIGHTS_128=adventurer=1.25 open-peeps=5 lorelei=4 big-ears=3 big-smile=1.5 micah=1.5 heads=1.5 \
notionists=1.5}"

# More pictures of a class that the network had begun to know by heart.
: "${MORE_128=--classes adventurer --train 16000}"

# The decoder comes last, larger, on tokens that do not change any more.
: "${DECODER_128=--blocks 12 --without $WITHOUT_128 --square-weight 10 --contrast-weight 0.2 --muon-lr 0.015 \
--images 280000}"

# A training command of the package. Two processes of one thread are faster than one of two. A GPU wants one process:
# TRAIN_128="$HOME/.cache/maskgit/venv/bin/python -m maskgit_export"
train() {
    if [ -n "${TRAIN_128:-}" ]; then
        # shellcheck disable=SC2086
        (cd "$ROOT/export" && $TRAIN_128 "$@")
    else
        (cd "$ROOT/export" && OMP_NUM_THREADS=1 "$(dirname "$VENV_PYTHON")/torchrun" \
            --nproc_per_node="$(nproc)" -m -- maskgit_export "$@")
    fi
}
