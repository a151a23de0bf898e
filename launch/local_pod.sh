#!/usr/bin/env bash
# A pod on this machine: N processes that find each other, on CPU each with its share of the cores. `local_pod.sh [--dry-run] N FLAGS...`, with the
# flags of `python -m causal_ctx.main`. Ends with the first status that is not 0. PORT (27182) and the port after it must be free.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/install.sh

dry=
if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
if ! [[ "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "Give the number of processes first: launch/local_pod.sh 2 --config=configs/quad_dependent.py:tiny --workdir=runs/pod" >&2
  exit 1
fi
count=$1
shift
if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
port=${PORT:-27182}
cores=$(nproc)
PYTHON=${PYTHON:-.venv/bin/python} # of another environment, where nothing is to be installed

command_of() { # the command line of process $1
  local first last pin=()
  if command -v taskset >/dev/null && [ "$count" -le "$cores" ]; then
    first=$(($1 * cores / count))
    last=$((($1 + 1) * cores / count - 1))
    pin=(taskset -c "$first-$last")
  fi
  command=(env "JAX_COORDINATOR_ADDRESS=127.0.0.1:$port" "JAX_NUM_PROCESSES=$count" "JAX_PROCESS_ID=$1" "${pin[@]}" "$PYTHON" -m causal_ctx.main --distributed=on "${@:2}")
}

if [ -n "$dry" ]; then
  for ((i = 0; i < count; i++)); do
    command_of "$i" "$@"
    printf '%q ' "${command[@]}"
    echo "&"
  done
  exit 0
fi
[ "$PYTHON" != .venv/bin/python ] || install .venv ""
for taken in "$port" "$((port + 1))"; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$taken") 2>/dev/null; then
    echo "Port $taken is in use, perhaps by another pod; give another: PORT=$((port + 100)) launch/local_pod.sh $count ..." >&2
    exit 1
  fi
done
processes=()
trap 'kill -TERM "${processes[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < count; i++)); do
  command_of "$i" "$@"
  setsid "${command[@]}" & # a group of its own: Ctrl-C comes once, by the trap
  processes+=($!)
done
status=0
for ((i = 0; i < count; i++)); do
  while :; do # a signal interrupts the waiting, not the processes
    ended=0
    wait "${processes[i]}" || ended=$?
    kill -0 "${processes[i]}" 2>/dev/null || break
  done
  if [ "$ended" -ne 0 ]; then
    echo "Process $i of $count ended with status $ended." >&2
    [ "$status" -ne 0 ] || status=$ended
  fi
done
exit "$status"
