#!/usr/bin/env bash
# Makes the virtual environment, or brings it to what requirements/dev.txt pins.
#
#   make_venv.sh PYTHON FOLDER
set -euo pipefail
python=$1 folder=$2
started=$SECONDS
echo "-> virtual environment $folder"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "$python is older than Python 3.11; say which to use: make PYTHON=python3.12 ..." >&2
  exit 1
fi
if [ ! -x "$folder/bin/python" ]; then
  # Debian ships ensurepip apart from Python.
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    apt-get update -qq || true
    apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
  fi

  "$python" -m venv "$folder"
fi
pin=$(grep -o '^uv==[^ ]*' requirements/dev.txt)
if [ "$("$folder/bin/uv" --version 2>/dev/null | cut -d' ' -f2)" != "${pin#uv==}" ]; then
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$pin"
fi
export VIRTUAL_ENV=$PWD/$folder
# Copies where the cache lies on another disk, and says nothing about it.
"$folder/bin/uv" pip sync --quiet --require-hashes --link-mode "${UV_LINK_MODE:-hardlink}" requirements/dev.txt
"$folder/bin/uv" pip install --quiet --no-deps --no-build-isolation --editable .
echo "ok virtual environment: $((SECONDS - started)) s"
