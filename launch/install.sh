# shellcheck shell=bash
# Sourced by the other scripts: `install FOLDER EXTRAS` makes the virtual environment FOLDER with causal_ctx[EXTRAS] in it, unless it is there already.

find_python() {
  local python
  for python in python3 python3.13 python3.12 python3.11 python; do
    if command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  echo "No Python 3.11 or newer was found; install one and run this again." >&2
  return 1
}

install() {
  local folder=$1 extras=$2 python wanted
  wanted="$(cksum <setup.cfg) $extras"
  if [ "$(cat "$folder/installed" 2>/dev/null)" = "$wanted" ]; then return; fi
  python=$(find_python)
  echo "Installing causal_ctx${extras:+[$extras]} into $folder (once, a minute or two) ..." >&2
  "$python" -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
  echo "$wanted" >"$folder/installed"
}
