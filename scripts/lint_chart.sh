#!/usr/bin/env bash
# Checks the chart and the manifests: helm lint, kubeconform with our own API server's schemas, kube-score, checkov.
#
# Rendered with the defaults and with each of tests/contract/values/*.yaml. What the operator makes of
# the samples is checked too. Exceptions stand here, in tests/contract/checkov.yaml and, for workers, in
# scripts/render_workers.py, each with its reason.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/tools.sh
helm=$(tool helm)
kubeconform=$(tool kubeconform)
kube_score=$(tool kube-score)
checkov=$(PATH=.venv/bin:$PATH tool checkov)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$helm" lint --strict --quiet helm/ryzanstein
for values in "" tests/contract/values/*.yaml; do
  name=$(basename "${values:-default}" .yaml)
  "$helm" template ryzanstein helm/ryzanstein --namespace ryzanstein ${values:+--values "$values"} > "$work/$name.yaml"
done
"$python" scripts/render_workers.py "$work"

"$kubeconform" -strict -schema-location 'tests/contract/schemas/{{.ResourceKind}}{{.KindSuffix}}.json' \
  manifests/install.yaml manifests/samples/*.yaml "$work"/*.yaml

# container-image-pull-policy: "Always" would make a start depend on the registry; what is pinned is the digest
# (images.*.digest), and a kind cluster has its images loaded and no registry at all.
for rendered in "$work"/*.yaml; do
  "$kube_score" score "$rendered" --output-format ci --ignore-test container-image-pull-policy > "$work/score" || {
    grep -v -e '^\[OK\]' -e '^\[SKIPPED\]' "$work/score"
    exit 1
  }
done

"$checkov" --config-file tests/contract/checkov.yaml --directory "$work"
echo "chart and manifests are clean"
