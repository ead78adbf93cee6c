#!/usr/bin/env bash
# Fails, and shows it, when any of the named paths differs from what is committed, untracked files included.
set -euo pipefail
cd "$(dirname "$0")/.."
status=0
git diff --exit-code -- "$@" || status=1
untracked=$(git ls-files --others --exclude-standard -- "$@")
if [ -n "$untracked" ]; then
  printf 'generated, but not committed:\n%s\n' "$untracked"
  status=1
fi
if [ "$status" = 0 ]; then echo "what is generated is as committed"; else echo "run 'make crds' and commit the result"; fi
exit "$status"
