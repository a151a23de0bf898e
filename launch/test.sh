#!/usr/bin/env bash
# Installs causal_ctx[test] into .venv-test, if it is not there yet, and runs the tests; arguments go to pytest (`-m slow` runs the slow ones).
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/install.sh
install .venv-test test
exec .venv-test/bin/python -m pytest "$@"
