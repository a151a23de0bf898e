#!/usr/bin/env bash
# On a machine with NVIDIA GPUs: installs with their libraries into .venv-gpu, then runs `python -m causal_ctx.main` with the arguments, on all its GPUs.
# `--dry-run` first prints the commands.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/install.sh
if [ "${1:-}" = --dry-run ]; then
  shift
  echo "install .venv-gpu gpu # a virtual environment with .[gpu]"
  printf '%q ' .venv-gpu/bin/python -m causal_ctx.main "$@"
  echo
  exit 0
fi
if ! command -v nvidia-smi >/dev/null; then
  echo "No NVIDIA driver was found (nvidia-smi); use launch/local.sh on a CPU." >&2
  exit 1
fi
install .venv-gpu gpu
exec .venv-gpu/bin/python -m causal_ctx.main "$@"
