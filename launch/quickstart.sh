#!/usr/bin/env bash
# Installs the package, pre-trains the preset `tiny` on rendered scenes, evaluates it on
# held-out scenes and draws a figure of them. Needs Python 3.11 to 3.13, no data and no
# accelerator; run again, it resumes where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

workdir=runs/quickstart
figure=$workdir/scenes.png

# Two CPU devices, each with half of the batch, are faster than one with two threads.
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-2}

SECONDS=0
prepare_environment
install_seconds=$SECONDS

SECONDS=0
"$PYTHON" -m pixel_bert_jax.main --config=configs/pretrain.py:tiny --workdir="$workdir"
train_seconds=$SECONDS

SECONDS=0
"$PYTHON" -m pixel_bert_jax.main --config=configs/pretrain.py:tiny --workdir="$workdir" \
  --mode=evaluate --figure="$figure"
evaluate_seconds=$SECONDS

cat <<END

Elapsed: install $install_seconds s, train $train_seconds s, evaluate $evaluate_seconds s.
  $figure   held-out scenes, masked words filled in, match scores
  $workdir/            checkpoints, metrics.jsonl, TensorBoard files
END
