"""What processes have used and what they say of themselves. Knows /proc and the Prometheus text format."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK: Final = os.sysconf("SC_CLK_TCK")
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_WRITING: Final = frozenset(("POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"))
_NO_WRITES: Final = frozenset(("leases", "nodes", "tokenreviews", "subjectaccessreviews"))
"""Heartbeats, and reviews that store nothing."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def memory_bytes(pid: int) -> tuple[int, int]:
    """Resident set size of a process: now, and at its peak."""
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
    return int(found["VmRSS"]) * 1024, int(found["VmHWM"]) * 1024


@dataclass(frozen=True)
class Sample:
    """One line of a metrics page."""

    name: str
    labels: Mapping[str, str]
    value: float


def samples(page: str) -> list[Sample]:
    """The samples of a page in the Prometheus text format."""
    return [Sample(name, dict(_LABEL.findall(labels)), float(value)) for name, labels, value in _SAMPLE.findall(page)]


def server_writes(page: str) -> dict[str, int]:
    """Writes that kube-apiserver has answered by resource, whoever made them; heartbeats and refusals left out."""
    totals: dict[str, int] = {}
    for sample in samples(page):
        if sample.name != "apiserver_request_total" or sample.labels["verb"] not in _WRITING:
            continue
        resource = "/".join(filter(None, (sample.labels["resource"], sample.labels["subresource"])))
        if sample.labels["code"].startswith("2") and sample.labels["resource"] not in _NO_WRITES:
            totals[resource] = totals.get(resource, 0) + int(sample.value)
    return totals


def operator_writes(page: str) -> dict[str, int]:
    """Writes that the operator counts, by kind and verb."""
    found = [sample for sample in samples(page) if sample.name == "ryzanstein_operator_writes_total"]
    return {f"{sample.labels['kind']} {sample.labels['verb']}": int(sample.value) for sample in found}


@dataclass(frozen=True)
class Visits:
    """The operator's histogram of reconciles: how many took at most so many seconds."""

    buckets: Mapping[float, float]

    @classmethod
    def of(cls, page: str) -> "Visits":
        name = "ryzanstein_operator_reconcile_duration_seconds_bucket"
        return cls({float(sample.labels["le"]): sample.value for sample in samples(page) if sample.name == name})

    @property
    def count(self) -> int:
        return int(max(self.buckets.values(), default=0))

    def quantile(self, share: float) -> float:
        """Seconds, interpolated within its bucket as Prometheus' histogram_quantile does; NaN without a visit."""
        rank, low, below = share * self.count, 0.0, 0.0
        for high, number in sorted(self.buckets.items()):
            if number >= rank and number > below:
                return low if high == float("inf") else low + (high - low) * (rank - below) / (number - below)
            low, below = high, number
        return float("nan")
