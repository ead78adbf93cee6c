"""From what Prometheus answered to what a decision may go by: a Sample, or one sentence that says why not. Pure."""

import math
from collections.abc import Iterable, Mapping
from typing import Final

from ryzanstein_operator.api.autoscaling import Target
from ryzanstein_operator.decide.queries import GATEWAYS, PART, REPLICAS, VALUE
from ryzanstein_operator.decide.sizing import Sample

Series = tuple[Mapping[str, str], float]
"""One series of an answer: labels and number."""
NO_GATEWAYS: Final = "Prometheus has no sample of the last 30 s of any gateway; look whether it scrapes them"
GARBLED: Final = "the answer says the same thing twice, or counts replicas or gateways by what is no number"
NO_REPLICAS: Final = (
    "Prometheus has no sample of the last 30 s of any of the replicas that are ready; look whether it scrapes them"
)


def sample_of(target: Target, answer: Iterable[Series], *, expected: bool) -> Sample:
    """expected: replicas have been ready for long enough to have been scraped. As long as they have not, it is no
    trouble that they have no series."""
    series = tuple(answer)
    if target.metric == "Query":
        return _of_query(series)
    parts = _parts(series)
    if parts is None:
        return Sample(None, trouble=GARBLED)
    replicas = int(parts.get(REPLICAS, 0))
    if target.metric == "WaitingRequests" and not parts.get(GATEWAYS):
        return Sample(None, trouble=NO_GATEWAYS)
    if expected and not replicas:
        return Sample(None, trouble=NO_REPLICAS)
    # Missing though replicas report: nothing happened that could be measured.
    return Sample(parts.get(VALUE, 0.0), replicas)


def active_of(answer: Iterable[Series]) -> bool | None:
    """Whether there were requests; None where no gateway is scraped, or the answer is nonsense."""
    parts = _parts(tuple(answer)) or {}
    value = parts.get(VALUE, math.nan)
    return value > 0 if parts.get(GATEWAYS) and value >= 0 else None


def _parts(series: tuple[Series, ...]) -> dict[str, float] | None:
    """The numbers by part. None for what no Prometheus says to our queries: something else may be answering for it."""
    parts = {labels.get(PART, ""): value for labels, value in series}
    counts = [parts.get(part, 0.0) for part in (REPLICAS, GATEWAYS)]
    sound = len(parts) == len(series) and all(math.isfinite(count) and count >= 0 for count in counts)
    return parts if sound else None


def _of_query(series: tuple[Series, ...]) -> Sample:
    if not series:
        return Sample(None, trouble="the query gives nothing; try it in Prometheus itself")
    if len(series) > 1:
        return Sample(None, trouble=f"the query gives {len(series)} series and not one; sum or select them")
    return Sample(series[0][1])
