#!/usr/bin/env bash
# What the tests of the page need beside the test environment: Playwright in .venv-test, a Chromium if none is installed, axe-core from npm into build/axe.
set -euo pipefail
cd "$(dirname "$0")/../.."
. launch/install.sh
install .venv-test test
.venv-test/bin/python -m pip install --quiet playwright
command -v chromium >/dev/null || command -v google-chrome >/dev/null || .venv-test/bin/python -m playwright install --with-deps chromium
mkdir -p build/axe
(cd build/axe && tar -xzf "$(npm pack --silent axe-core@4)" package/axe.min.js)
