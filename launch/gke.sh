#!/usr/bin/env bash
# Submits a run to TPU slices of a GKE cluster through xpk (`pip install xpk`).
#
#   GKE_CLUSTER=cluster GKE_ZONE=us-west4-a GKE_PROJECT=project GKE_TYPE=v5litepod-64 \
#     GKE_IMAGE=IMAGE bash launch/gke.sh [--print] NAME FLAGS OF main
#
# The image holds the repository at /pixel_bert_jax with the packages of its extra `tpu`
# installed. The workdir has to be on a volume that all hosts share. A preempted run is
# restarted and resumes from its newest checkpoint. --print shows the command and runs
# nothing.
#
# GKE_CLUSTER, GKE_ZONE, GKE_PROJECT  where the cluster is
# GKE_TYPE      TPU type, such as v5litepod-64
# GKE_IMAGE     container image
# GKE_SLICES    number of slices (default: 1)
# GKE_RESTARTS  largest number of restarts (default: 100)
set -euo pipefail

print_only=0
if [[ ${1:-} == --print ]]; then
  print_only=1
  shift
fi
usage() {
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}
for name in GKE_CLUSTER GKE_ZONE GKE_PROJECT GKE_TYPE GKE_IMAGE; do
  if [[ -z ${!name:-} ]]; then
    echo "error: $name is not set" >&2
    usage
  fi
done
(($# >= 2)) || usage
workload=$1
shift
printf -v flags '%q ' "$@" --coordinator_address=auto
command=(xpk workload create
  --project="$GKE_PROJECT" --zone="$GKE_ZONE" --cluster="$GKE_CLUSTER"
  --workload="$workload" --tpu-type="$GKE_TYPE" --num-slices="${GKE_SLICES:-1}"
  --docker-image="$GKE_IMAGE" --max-restarts="${GKE_RESTARTS:-100}"
  --command="cd /pixel_bert_jax && python -m pixel_bert_jax.main $flags")
if ((print_only)); then
  printf '%q ' "${command[@]}"
  printf '\n'
else
  "${command[@]}"
fi
