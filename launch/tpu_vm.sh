#!/usr/bin/env bash
# Requests a TPU pod slice, installs the project on all of its hosts and trains there
# until the run is done, through preemptions. Runs on your own machine; needs gcloud.
#
#   bash launch/tpu_vm.sh [--print] create|setup|train|status|delete [FLAGS OF main]
#
#   TPU_NAME=pod TPU_ZONE=us-west4-a TPU_TYPE=v5litepod-64 TPU_SOURCE=https://... \
#     bash launch/tpu_vm.sh train --config=configs/pretrain.py:r50 --workdir=/mnt/runs/r50
#
# `train` does everything: it requests the slice if there is none, waits for it, sets it
# up, and starts over after a preemption; the run itself resumes from its newest
# checkpoint. The workdir has to be on storage that all hosts share and that outlives the
# slice.
# --print shows the commands and runs none.
#
# TPU_NAME     name of the slice and of the request for it
# TPU_ZONE     zone
# TPU_TYPE     accelerator type, such as v5litepod-64
# TPU_RUNTIME  runtime version (default: v2-alpha-tpuv5-lite)
# TPU_SOURCE   git address that the hosts clone
# TPU_REVISION revision that they check out (default: main)
# TPU_MOUNT    command that mounts the shared storage on each host (default: none)
# TPU_SPOT     1: a spot slice, cheaper and preemptible (default); 0: on demand
# TPU_PAUSE    seconds between checks of a request (default: 60)
# TPU_RESTARTS largest number of restarts (default: 1000)
set -euo pipefail

print_only=0
if [[ ${1:-} == --print ]]; then
  print_only=1
  shift
fi
action=${1:-}
shift || true

usage() {
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}
for name in TPU_NAME TPU_ZONE TPU_TYPE; do
  if [[ -z ${!name:-} ]]; then
    echo "error: $name is not set" >&2
    usage
  fi
done
runtime=${TPU_RUNTIME:-v2-alpha-tpuv5-lite}
revision=${TPU_REVISION:-main}
pause=${TPU_PAUSE:-60}
folder=pixel_bert_jax

# Runs a command, or only shows it.
run() {
  if ((print_only)); then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

on_all_hosts() {
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$TPU_ZONE" --worker=all \
    --command="$1"
}

create() {
  local spot=(--spot)
  [[ ${TPU_SPOT:-1} == 1 ]] || spot=()
  run gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" \
    --zone="$TPU_ZONE" --accelerator-type="$TPU_TYPE" --runtime-version="$runtime" \
    "${spot[@]}"
}

# Prints ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ... or NONE.
state() {
  if ((print_only)); then
    echo ACTIVE
    return
  fi
  gcloud compute tpus queued-resources describe "$TPU_NAME" --zone="$TPU_ZONE" \
    --format='value(state.state)' 2>/dev/null || echo NONE
}

delete() {
  run gcloud compute tpus queued-resources delete "$TPU_NAME" --zone="$TPU_ZONE" \
    --force --quiet
}

setup() {
  if [[ -z ${TPU_SOURCE:-} ]]; then
    echo "error: TPU_SOURCE is not set: the git address that the hosts clone" >&2
    exit 2
  fi
  local mount=${TPU_MOUNT:-true}
  on_all_hosts "set -e; $mount; [ -d $folder ] || git clone $TPU_SOURCE $folder
cd $folder; git fetch --quiet; git checkout --quiet $revision
source launch/environment.sh; prepare_environment tpu"
}

# Waits until the slice is active, and requests a new one if it is gone.
wait_for_slice() {
  while true; do
    case $(state) in
      ACTIVE) return ;;
      NONE) create ;;
      SUSPENDED | FAILED) delete ;;
      *) ;; # being created or deleted
    esac
    sleep "$pause"
  done
}

train() {
  local flags code restarts=0
  printf -v flags '%q ' "$@" --coordinator_address=auto
  while true; do
    wait_for_slice
    setup
    code=0
    on_all_hosts "cd $folder; .venv/bin/python -m pixel_bert_jax.main $flags" || code=$?
    case $code in
      0) return ;;
      # Bad input, updates that are not finite, bad images, hosts that differ: a restart
      # would end the same way.
      2 | 3 | 4 | 6) exit "$code" ;;
    esac
    restarts=$((restarts + 1))
    if ((restarts > ${TPU_RESTARTS:-1000})); then
      echo "error: gave up after $((restarts - 1)) restarts; the last code was $code" >&2
      exit "$code"
    fi
    echo "the run ended with code $code; restart $restarts" >&2
    sleep "$pause"
  done
}

case $action in
  create) create ;;
  setup) setup ;;
  train) train "$@" ;;
  status) state ;;
  delete) delete ;;
  *) usage ;;
esac
