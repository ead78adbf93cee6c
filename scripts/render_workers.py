"""Writes what the operator makes of each sample into a directory, for the linters."""

import sys
from pathlib import Path

import yaml

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


def main() -> None:
    directory = Path(sys.argv[1])
    sys.path.insert(0, str(ROOT / "tests/support"))
    import chart
    import operated

    for name, service in operated.samples().items():
        made = operated.children_of(service, chart.installed(), "ryzanstein")
        for workload in chart.of_kind(made, "Deployment", "StatefulSet"):
            workload["metadata"].setdefault("annotations", {}).update(EXCEPTIONS)
        (directory / f"workers-{name}").write_text(yaml.safe_dump_all(made))


if __name__ == "__main__":
    main()
