# Finds the programs that check and render manifests, or builds them once, at pinned versions. To be sourced.
#
# tool NAME prints the path of one: from $RYZANSTEIN_CACHE/bin, the offline cluster's build, PATH, or `go install` into
# that cache. After the first build nothing here needs a network.

RYZANSTEIN_CACHE=${RYZANSTEIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ryzanstein}
HELM=helm.sh/helm/v4/cmd/helm@v4.3.0
KUBECONFORM=github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
KUBE_SCORE=github.com/zegl/kube-score/cmd/kube-score@v1.20.0
CHECKOV=checkov==3.3.30

python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi

tool() {
  local name=$1 place package
  for place in "$RYZANSTEIN_CACHE/bin" "$HOME/.cache/kind-offline/bin"; do
    if [ -x "$place/$name" ]; then echo "$place/$name"; return; fi
  done
  if command -v "$name"; then return; fi
  case $name in
    helm) package=$HELM ;;
    kubeconform) package=$KUBECONFORM ;;
    kube-score) package=$KUBE_SCORE ;;
    checkov) checkov_environment; return ;;
    *) echo "no recipe for $name" >&2; return 1 ;;
  esac
  if ! command -v go >/dev/null; then
    echo "$name is not installed, and there is no Go to build it with (go install $package)" >&2
    return 1
  fi
  echo "building $name from $package, once" >&2
  mkdir -p "$RYZANSTEIN_CACHE/bin"
  (cd / && GOFLAGS=-buildvcs=false CGO_ENABLED=0 GOBIN=$RYZANSTEIN_CACHE/bin go install "$package") >&2
  echo "$RYZANSTEIN_CACHE/bin/$name"
}

# An environment of its own: checkov pins many packages that are none of the project's.
checkov_environment() {
  local place=$RYZANSTEIN_CACHE/${CHECKOV/==/-}
  if [ ! -e "$place/complete" ]; then
    echo "installing $CHECKOV, once" >&2
    rm -rf "$place"
    { python3 -m venv "$place" && "$place/bin/pip" install --quiet "$CHECKOV" && touch "$place/complete"; } >&2
  fi
  echo "$place/bin/checkov"
}
