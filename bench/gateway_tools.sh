#!/usr/bin/env bash
# What `make bench-gateway` compares with: nginx and wrk from Debian, LiteLLM's proxy in a virtual environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${RYZANSTEIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ryzanstein}"
uv="$PWD/.venv/bin/uv"
read -r version before < <(.venv/bin/python -c 'from bench import gateway_peers as p; print(p.LITELLM_VERSION, p.LITELLM_BEFORE)')

missing=()
[ -x /usr/sbin/nginx ] || command -v nginx >/dev/null || missing+=(nginx-light)
command -v wrk >/dev/null || missing+=(wrk)
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]} with apt"
  # On install Debian starts nginx as a service where there is an init; the benchmark runs one of its own.
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

home="$cache/litellm-$version"
if [ ! -e "$home/.made" ]; then
  echo "installing LiteLLM $version into $home"
  rm -rf "$home"
  "$uv" venv -q --python python3 "$home"
  # Wheels only, and nothing younger than the pinned version's own month: no code of theirs runs on install.
  "$uv" pip install -q --python "$home/bin/python" --only-binary :all: --exclude-newer "$before" "litellm[proxy]==$version"
  touch "$home/.made"
fi
