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
NO_REPLICAS: Final = (
    "Prometheus has no sample of the last 30 s of any of the replicas that are ready; look whether it scrapes them"
)


def sample_of(target: Target, answer: Iterable[Series], *, expected: bool) -> Sample:
    """expected: replicas have been ready for long enough to have been scraped. As long as they have not, it is no
    trouble that they have no series."""
    series = tuple(answer)
    if target.metric == "Query":
        return _of_query(series)
    parts = {labels.get(PART, ""): value for labels, value in series}
    replicas = int(parts.get(REPLICAS, 0))
    if target.metric == "WaitingRequests" and not parts.get(GATEWAYS):
        return Sample(None, trouble=NO_GATEWAYS)
    if expected and not replicas:
        return Sample(None, trouble=NO_REPLICAS)
    # Missing though replicas report: nothing happened that could be measured.
    return Sample(parts.get(VALUE, 0.0), replicas)


def active_of(answer: Iterable[Series]) -> bool | None:
    """Whether there were requests; None where no gateway is scraped."""
    parts = {labels.get(PART, ""): value for labels, value in answer}
    if not parts.get(GATEWAYS) or math.isnan(parts.get(VALUE, math.nan)):
        return None
    return parts[VALUE] > 0


def _of_query(series: tuple[Series, ...]) -> Sample:
    if not series:
        return Sample(None, trouble="the query gives nothing; try it in Prometheus itself")
    if len(series) > 1:
        return Sample(None, trouble=f"the query gives {len(series)} series and not one; sum or select them")
    return Sample(series[0][1])
