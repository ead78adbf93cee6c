#!/usr/bin/env bash
# Writes all that is generated: crds/ and docs/reference.md from the operator's models and what the chart makes of them,
# the dashboards, the troubleshooting page, the code of proto/ and what docs/ says of the API and the metrics.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m ryzanstein_operator crds --output crds --reference docs/reference.md
python -m ryzanstein_dashboards manifests/grafana helm/ryzanstein/files/grafana
PYTHON=python scripts/render_manifests.sh
python -m grpc_tools.protoc -I proto --python_out=proto --grpc_python_out=proto --mypy_out=quiet:proto \
  --mypy_grpc_out=quiet:proto proto/ryzanstein/v1/inference.proto
python scripts/troubleshooting.py
python scripts/api_docs.py
python scripts/metrics_docs.py
