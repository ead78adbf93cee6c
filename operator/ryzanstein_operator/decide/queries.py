"""What Prometheus is asked for each target of spec.autoscaling, in PromQL. Pure text.

One query for a target gives two series, told apart by the label `part`: the value, and how many replicas it is of. A
range of FRESH, and not the five minutes for which Prometheus shows a gauge's last value, so that a replica that is
scraped no more is missing. The labels of the series are the chart's own (docs/metrics.md).
"""

from dataclasses import dataclass
from typing import Final

from ryzanstein_operator.api.autoscaling import Target
from ryzanstein_worker import contract

PART: Final = "part"
VALUE: Final = "value"
REPLICAS: Final = "replicas"
GATEWAYS: Final = "gateways"
FRESH: Final = "[30s]"
OVER: Final = "[1m]"
"""What a rate is taken over: a quarter of it would be three scrapes of the bundled Prometheus."""
QUANTILE: Final = 0.95


@dataclass(frozen=True)
class Place:
    """Whose series are meant. model: as clients name it; release: the namespace of the gateways."""

    namespace: str
    service: str
    model: str
    release: str

    @property
    def worker(self) -> str:
        """The labels of its replicas' series."""
        return _selector(
            job=contract.JOB_WORKER,
            **{contract.SERIES_NAMESPACE: self.namespace, contract.SERIES_SERVICE: self.service},
        )

    @property
    def gateway(self) -> str:
        """The labels of the gateways' series about it."""
        return _selector(
            job=contract.JOB_GATEWAY,
            **{contract.SERIES_NAMESPACE: self.release, contract.GATEWAY_MODEL: self.model},
        )

    @property
    def gateways(self) -> str:
        """The labels of all series of the gateways."""
        return _selector(job=contract.JOB_GATEWAY, **{contract.SERIES_NAMESPACE: self.release})


def query_of(target: Target, place: Place) -> str:
    """The query for one target."""
    match target.metric:
        case "WaitingRequests":
            return _waiting(place)
        case "KVCacheUsagePercent":
            usage = f"last_over_time({contract.KV_CACHE_USAGE_PERC}{place.worker}{FRESH})"
            return _parts(f"avg({usage}) * 100", usage)
        case "TimeToFirstTokenMillis":
            return _first_token(place)
        case "TokensPerSecond":
            rate = _rate(f"{contract.GENERATION_TOKENS}_total{place.worker}")
            return _parts(f"sum({rate})", rate)
    return target.query or ""


def activity(place: Place, seconds: int) -> str:
    """Whether there were requests in the last `seconds`: more than 0 if so. Besides how many gateways are scraped:
    without them nobody would know."""
    over = f"[{seconds}s]"
    found = [
        f"sum(increase({contract.REQUEST_SUCCESS}_total{place.worker}{over}))",
        *(
            f"sum(max_over_time({name}{place.worker}{over}))"
            for name in (contract.NUM_REQUESTS_RUNNING, contract.NUM_REQUESTS_WAITING)
        ),
        f"sum(max_over_time({contract.GATEWAY_QUEUE_LENGTH}{place.gateway}{over}))",
    ]
    total = " + ".join(f"({one} or vector(0))" for one in found)
    return f"{_named(VALUE, total)} or {_scraped(place)}"


def _waiting(place: Place) -> str:
    """Those in the replicas and those at the gateways, where there is no series for a model that never had one."""
    inside = f"last_over_time({contract.NUM_REQUESTS_WAITING}{place.worker}{FRESH})"
    outside = f"last_over_time({contract.GATEWAY_QUEUE_LENGTH}{place.gateway}{FRESH})"
    value = f"(sum({inside}) or vector(0)) + (sum({outside}) or vector(0))"
    return f"{_parts(value, inside)} or {_scraped(place)}"


def _first_token(place: Place) -> str:
    """Without requests there is no latency: a quantile of nothing is NaN, which the comparison takes out. What has been
    scraped once is not counted: that it had no requests is not known."""
    name = contract.TIME_TO_FIRST_TOKEN
    quantile = f"histogram_quantile({QUANTILE}, sum by (le) (rate({name}_bucket{place.worker}{OVER}))) * 1000 >= 0"
    return _parts(quantile, _rate(f"{name}_count{place.worker}"))


def _rate(counter: str) -> str:
    """A second, of each replica that is scraped still."""
    return f"(rate({counter}{OVER}) and last_over_time({counter}{FRESH}))"


def _scraped(place: Place) -> str:
    return _named(GATEWAYS, f"sum(last_over_time(up{place.gateways}{FRESH}))")


def _parts(value: str, counted: str) -> str:
    return f"{_named(VALUE, value)} or {_named(REPLICAS, f'count({counted})')}"


def _named(part: str, expression: str) -> str:
    return f'label_replace({expression}, "{PART}", "{part}", "", "")'


def _selector(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    """As within double quotes in PromQL, whose escapes are Go's."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
