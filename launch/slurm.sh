#!/usr/bin/env bash
# Trains on GPUs of a SLURM cluster, one process per node, and resumes after preemption.
#
#   sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh --config=configs/pretrain.py:r50 \
#     --workdir=/shared/runs/r50
#   bash launch/slurm.sh --print --config=...     shows the command and runs nothing
#
# The repository and the workdir have to be on storage that all nodes share. Make the
# environment once with `source launch/environment.sh; prepare_environment cuda13`.
#
# PIXEL_BERT_PORT  the coordinator's port; the next one is used too (default: 29500)
#SBATCH --job-name=pixel_bert_jax
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
set -euo pipefail

print_only=0
if [[ ${1:-} == --print ]]; then
  print_only=1
  shift
fi
if (($# == 0)); then
  sed -n '2,/^#SBATCH/{/^# /s/^# //p}' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
# sbatch runs a copy of this file, in the folder from which it was called.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
python=${PIXEL_BERT_VENV:-$PWD/.venv}/bin/python
port=${PIXEL_BERT_PORT:-29500}

# Evaluated inside the step, where each process knows its number.
# shellcheck disable=SC2016
step='first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1);'
# shellcheck disable=SC2016
step+=' exec "$0" -m pixel_bert_jax.main "${@:2}" --coordinator_address="$first:$1"'
# shellcheck disable=SC2016
step+=' --num_processes="$SLURM_NTASKS" --process_id="$SLURM_PROCID"'
command=(srun --kill-on-bad-exit=1 bash -c "$step" "$python" "$port" "$@")
if ((print_only)); then
  printf '%q ' "${command[@]}"
  printf '\n'
  exit
fi
code=0
"${command[@]}" || code=$?
# Saved after SIGTERM, hanging, or a node was lost: back into the queue.
if [[ $code == 143 || $code == 5 || $code == 7 ]] && [[ -n ${SLURM_JOB_ID:-} ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
