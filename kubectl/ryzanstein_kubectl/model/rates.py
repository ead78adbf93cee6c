"""From metrics read again and again to what `top` shows: rates and a median over the last seconds. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ryzanstein_kubectl.model.pages import Counters, Load, median
from ryzanstein_kubectl.model.pods import node_states, pod_of
from ryzanstein_kubectl.model.snapshot import PodKey, Snapshot, group_of, leaders, service_of
from ryzanstein_kubectl.model.tree import Mood


@dataclass(frozen=True)
class Row:
    """One replica. What is not known, or cannot be before a second read, is None.

    tokens_per_second: generated, since the read before. ttft_p50_seconds: of the requests of the last WINDOW.
    """

    namespace: str
    service: str
    replica: str
    node: str
    state: str
    mood: Mood
    load: Load | None
    tokens_per_second: float | None
    ttft_p50_seconds: float | None


@dataclass(frozen=True)
class Sample:
    """One read of a worker's counters."""

    taken: datetime
    counters: Counters


WINDOW = timedelta(seconds=30)


class History:
    """The reads of each replica within WINDOW. A worker that was started anew starts anew here too."""

    def __init__(self) -> None:
        self._samples: dict[PodKey, list[Sample]] = {}

    def take(self, snapshot: Snapshot) -> tuple[Row, ...]:
        """Keep what a snapshot shows, and give a row for each replica, by service and name."""
        self._keep(snapshot.taken, snapshot.counters)
        states = node_states({}, snapshot.services)
        rows = []
        for manifest in leaders(snapshot.pods):
            namespace, service = service_of(manifest)
            node = manifest["spec"].get("nodeName", "")
            pod = pod_of(manifest, states.get(node, ""), (), "", snapshot.taken)
            samples = self._samples.get(PodKey.of(manifest), [])
            fresh = bool(samples) and samples[-1].taken == snapshot.taken
            rows.append(
                Row(
                    namespace=namespace,
                    service=service,
                    replica=group_of(manifest) or pod.name,
                    node=node,
                    state=pod.state,
                    mood=pod.mood,
                    load=samples[-1].counters.load if fresh else None,
                    tokens_per_second=rate(samples) if fresh else None,
                    ttft_p50_seconds=first_token(samples) if fresh else None,
                )
            )
        return tuple(sorted(rows, key=lambda row: (row.namespace, row.service, row.replica)))

    def _keep(self, taken: datetime, counters: Mapping[PodKey, Counters]) -> None:
        for pod, read in counters.items():
            kept = self._samples.get(pod, [])
            if kept and read.generation_tokens < kept[-1].counters.generation_tokens:
                kept = []  # counters only grow: this is another process
            since = taken - WINDOW
            # The youngest of those too old stays: what the window is measured from.
            older = [sample for sample in kept if sample.taken < since][-1:]
            within = [sample for sample in kept if sample.taken >= since]
            self._samples[pod] = [*older, *within, Sample(taken, read)]
        for pod in [pod for pod in self._samples if pod not in counters]:
            if taken - self._samples[pod][-1].taken > WINDOW:
                del self._samples[pod]


def rate(samples: list[Sample]) -> float | None:
    """Tokens a second between the last two reads."""
    if len(samples) < 2:
        return None
    before, last = samples[-2:]
    seconds = (last.taken - before.taken).total_seconds()
    if seconds <= 0:
        return None
    return (last.counters.generation_tokens - before.counters.generation_tokens) / seconds


def first_token(samples: list[Sample]) -> float | None:
    """The median time to the first token over all reads that are kept, in seconds; None where no request began."""
    if len(samples) < 2:
        return None
    return median(samples[0].counters.first_token, samples[-1].counters.first_token)
