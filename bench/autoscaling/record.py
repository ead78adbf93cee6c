"""Draws what e2e/autoscaling saw on a cluster: `python -m bench.autoscaling.record` after that story has passed."""

import json
from pathlib import Path
from typing import Any

from bench.autoscaling.plot import Panel, draw

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "build/autoscaling.json"
PICTURE = ROOT / "docs/autoscaling/e2e.svg"


def picture(record: dict[str, Any]) -> str:
    """Clients, Prometheus, and the replicas wanted and ready. All times of the record are seconds since its start."""
    moments, sizes = record["moments"], record["sizes"]
    clients = [(0.0, 0.0), (moments["load"], float(record["clients"])), (moments["load ends"], 0.0)]
    seeing = [(0.0, 1.0), (moments["blind"], 0.0), (moments["sees"], 1.0)]
    wanted = [(0.0, 0.0), *((one["at"], float(one["desired"])) for one in sizes)]
    ready = [(0.0, 0.0), *((one["at"], float(one["ready"])) for one in sizes)]
    panels = (
        Panel("Clients that stream", (("clients", clients),), area=True),
        Panel("Prometheus is there", (("Prometheus", seeing),), area=True),
        Panel("Replicas", (("wanted", wanted), ("ready", ready))),
    )
    return draw("From zero to four and back, on kind", moments["zero"] + 5, panels)


if __name__ == "__main__":
    PICTURE.write_text(picture(json.loads(RECORD.read_text())))
    print(PICTURE)
