#!/bin/sh
# The paper-size ViT and MLP-Mixer on Fashion-MNIST and CIFAR-10, by every method, on one data-centre GPU.
#
# NOT RUN YET: no GPU was at hand when this was written. Its parts were tested on a CPU; its time is an estimate.
#
#   scripts/compare_on_gpu.sh [--dry-run]
#
# prints `secateur compare --dry-run` first (every run; its time once one has finished an epoch) and then does it.
# With --dry-run it ends there. Interrupted, the same line goes on. What can be set, with defaults:
#
#   OUT=runs/gpu EPOCHS=20 JOBS=4 SEEDS=0 METHODS=(all) DEVICE=cuda DATA_DIR= SECATEUR=secateur
#
# How 20 epochs were chosen: docs/gpu.md. In short, a training image costs 1.3 GFLOP in either network, so an
# epoch some 80 TFLOP: under a second of arithmetic in bfloat16, some two seconds of launching 500 steps. Then there are
# 44 runs, each with up to half a minute of judging in float32 and a minute of compiling, four at once. The
# paper's 50 epochs (EPOCHS=50) should take two hours rather than one.
set -eu

OUT=${OUT:-runs/gpu}
EPOCHS=${EPOCHS:-20}
JOBS=${JOBS:-4} # one run leaves the GPU idle between small kernels
SEEDS=${SEEDS:-0}
DEVICE=${DEVICE:-cuda}
SECATEUR=${SECATEUR:-secateur}

case $# in
0) only_estimate=false ;;
1)
    [ "$1" = --dry-run ] || { echo "expected --dry-run or nothing, got $1" >&2; exit 2; }
    only_estimate=true
    ;;
*)
    echo "expected --dry-run or nothing, got $# arguments" >&2
    exit 2
    ;;
esac

command -v "$SECATEUR" >/dev/null 2>&1 || {
    echo "expected the command secateur, got none; install it, or set SECATEUR" >&2
    exit 1
}

set -- --networks vit,mlp-mixer --data fashion-mnist,cifar10 --seeds "$SEEDS" --epochs "$EPOCHS" \
    --out "$OUT" --jobs "$JOBS" --device "$DEVICE" --autocast
[ -z "${METHODS:-}" ] || set -- "$@" --methods "$METHODS"
[ -z "${DATA_DIR:-}" ] || set -- "$@" --data-dir "$DATA_DIR"

"$SECATEUR" compare "$@" --dry-run # refuses a device or a name that does not exist, before anything is fetched
if $only_estimate; then
    exit 0
fi
for name in fashion-mnist cifar10; do # once, and not by four runs at the same time
    if [ -n "${DATA_DIR:-}" ]; then
        "$SECATEUR" data "$name" --fetch --data-dir "$DATA_DIR"
    else
        "$SECATEUR" data "$name" --fetch
    fi
done
exec "$SECATEUR" compare "$@"
