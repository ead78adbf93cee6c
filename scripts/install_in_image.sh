#!/bin/sh
# Inside the image build: the pinned packages of one part, compiled to bytecode, in the environment /opt/ryzanstein.
#
#   install_in_image.sh PART     reads /wheels: PART.txt and, where the build has no network, the wheels themselves
set -eu
part=$1
# It sees the system's packages, so a base image that holds torch need not get another.
python3 -m venv --system-site-packages /opt/ryzanstein
python=/opt/ryzanstein/bin/python
source=
if ls /wheels/*.whl >/dev/null 2>&1; then source="--no-index --find-links /wheels"; fi
# shellcheck disable=SC2086 # two words or none
install() { "$python" -m pip install --no-cache-dir --no-compile --require-hashes $source -r "$1"; }
install "/wheels/$part.txt"
if [ "$part" = worker ] && ! "$python" -c 'import torch' 2>/dev/null; then install /wheels/torch.txt; fi
"$python" -m pip uninstall -q -y pip setuptools 2>/dev/null || true
# Nobody runs these packages' own tests from here.
find /opt/ryzanstein -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf {} +
# The Kubernetes client is 60 MB of generated source: its bytecode alone is kept, under the names of the sources.
for client in /opt/ryzanstein/lib/python3.*/site-packages/kubernetes; do
  [ -d "$client" ] || continue
  "$python" -m compileall -q -b "$client"
  find "$client" -name '*.py' -delete
done
"$python" -m compileall -q --invalidation-mode unchecked-hash /opt/ryzanstein/lib
"$python" -c "import importlib.metadata as m; print(len(list(m.distributions())), 'distributions')"
