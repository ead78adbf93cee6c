"""Writes what the operator makes of each sample into a directory, for the linters."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXCEPTIONS = {
    "kube-score/ignore": ",".join(
        (
            # The root is read-only, each scratch volume has a sizeLimit; more is the user's to say in spec.resources.
            "container-ephemeral-storage-request-and-limit",
        )
    ),
    "checkov.io/skip1": "CKV_K8S_35=the hub's client reads its token from the environment; the container that has it "
    "only downloads, and has ended before the worker starts",
}
"""Annotations that the linters read, on the linted copy alone."""
# Kubernetes itself puts the label that this selects by on a StatefulSet's pods, so no template has it.
LEADERS_ALONE = {"kube-score/ignore": "service-targets-pod"}


def main() -> None:
    directory = Path(sys.argv[1])
    sys.path.insert(0, str(ROOT / "tests/support"))
    import chart
    import operated
    from ryzanstein_operator.plan import dump
    from ryzanstein_worker.contract import LABEL_POD_INDEX

    for name, service in operated.samples().items():
        made = operated.children_of(service, chart.installed(), "ryzanstein")
        for workload in chart.of_kind(made, "Deployment", "StatefulSet"):
            workload["metadata"].setdefault("annotations", {}).update(EXCEPTIONS)
        for one in chart.of_kind(made, "Service"):
            if LABEL_POD_INDEX in one["spec"]["selector"]:
                one["metadata"].setdefault("annotations", {}).update(LEADERS_ALONE)
        (directory / f"workers-{name}").write_text(dump(made))


if __name__ == "__main__":
    main()
