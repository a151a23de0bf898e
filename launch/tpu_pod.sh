#!/usr/bin/env bash
# A Cloud TPU pod: create it, install on all its hosts, run on all, follow, stop, delete.
#
#   export PROJECT=my-project ZONE=us-central2-b TYPE=v4-16 SHARED=/mnt/shared
#   launch/tpu_pod.sh create quad && launch/tpu_pod.sh setup quad
#   launch/tpu_pod.sh run quad --config=configs/quad_dependent.py --workdir=/mnt/shared/quad
#   launch/tpu_pod.sh logs quad          # from another terminal; stop quad; delete quad
#
# `--dry-run` before the verb prints the exact commands. TYPE is the accelerator type, VERSION the runtime image, SPOT=1 takes machines that can be taken back:
# `run` then makes the pod again and goes on, up to RESTARTS times. --workdir is a folder that all hosts see: MOUNT is a command that `setup` runs on each to
# have it there, for example 'sudo mount -o nolock,actimeo=1,lookupcache=none 10.0.0.2:/share /mnt/shared' for Filestore, so that every
# host sees at once what another wrote.
set -euo pipefail
cd "$(dirname "$0")/.."

dry=
if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
verb=${1:-}
name=${2:-}
shift $(($# < 2 ? $# : 2))
if ! [[ "$verb" =~ ^(create|setup|run|logs|stop|delete)$ ]] || ! [[ "$name" =~ ^[a-z][-a-z0-9]*$ ]]; then
  echo "Write launch/tpu_pod.sh [--dry-run] create|setup|run|logs|stop|delete NAME [FLAGS], with a NAME of small letters, digits and dashes." >&2
  exit 1
fi
for variable in PROJECT ZONE TYPE; do
  if [ -z "${!variable:-}" ]; then
    echo "$variable is not set; export PROJECT, ZONE and TYPE, for example my-project, us-central2-b and v4-16." >&2
    exit 1
  fi
done
version=${VERSION:-tpu-ubuntu2204-base}
restarts=${RESTARTS:-100}
where=(--project="$PROJECT" --zone="$ZONE")

does() { # runs a command, or prints it
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
on_all() { does gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"; }
quoted() { printf '%q ' "$@"; }

create() {
  local spot=()
  [ -z "${SPOT:-}" ] || spot=(--spot)
  does gcloud compute tpus tpu-vm create "$name" "${where[@]}" --accelerator-type="$TYPE" --version="$version" "${spot[@]}"
}
setup() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  does git archive --format=tar.gz --output="$archive" HEAD
  does gcloud compute tpus tpu-vm scp "$archive" "$name:causal_ctx.tar.gz" "${where[@]}" --worker=all
  rm -f "$archive"
  on_all "${MOUNT:+$MOUNT && }mkdir -p causal_ctx && tar -xzf causal_ctx.tar.gz -C causal_ctx && cd causal_ctx && . launch/install.sh && install .venv tpu"
}
start() { on_all "cd causal_ctx && .venv/bin/python -m causal_ctx.main --distributed=on $(quoted "$@")2>&1 | tee -a run.log; exit \${PIPESTATUS[0]}"; }
state() { gcloud compute tpus tpu-vm describe "$name" "${where[@]}" --format='value(state)' 2>/dev/null || echo GONE; }
stop() { on_all "pkill -TERM -f '^[^ ]*python -m causal_ctx[.]main' || true"; }
delete() { does gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet; }

case $verb in
create) create ;;
setup) setup ;;
logs) does gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=0 --command="tail -n 100 -F causal_ctx/run.log" ;;
stop) stop ;;
delete) delete ;;
run)
  for ((attempt = 0; attempt <= restarts; attempt++)); do
    status=0
    start "$@" || status=$?
    if [ -n "$dry" ] || [ "$status" -eq 0 ] || [ "$status" -eq 1 ] || [ "$status" -eq 130 ]; then
      exit "$status" # done, refused, or asked to stop
    fi
    if [ "$(state)" != READY ]; then
      echo "The pod $name is $(state); making it again." >&2
      delete || true
      until create; do sleep 60; done
      setup
    fi
    echo "Going on from the last checkpoint (restart $((attempt + 1)) of at most $restarts)." >&2
  done
  exit 1
  ;;
esac
