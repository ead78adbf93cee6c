#!/usr/bin/env bash
# Writes all that is generated from the operator's models: crds/, docs/reference.md, and what the chart makes of them.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m ryzanstein_operator crds --output crds --reference docs/reference.md
PYTHON=python scripts/render_manifests.sh
