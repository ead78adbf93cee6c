"""What of a service its size is chosen by, beside the metrics: read off what the cluster showed. Pure."""

from datetime import datetime

from ryzanstein_operator.api.autoscaling import Autoscaling
from ryzanstein_operator.api.inference_service import CPU, InferenceService
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.decide import operation
from ryzanstein_operator.decide.facts import pods_refused, workers_of
from ryzanstein_operator.decide.groups import groups_of
from ryzanstein_operator.decide.observed import Observed
from ryzanstein_operator.decide.pods import Worker
from ryzanstein_operator.decide.size import held
from ryzanstein_operator.decide.sizing import Seen


def look(observed: Observed, service: InferenceService, autoscaling: Autoscaling, now: datetime) -> Seen:
    """All but the samples and what gateways and Prometheus say of requests."""
    workers = workers_of(observed, now)
    current = held(observed, autoscaling)
    unplaced, words = _unplaced(observed, service, workers, current)
    spec = service.spec
    return Seen(
        current=current,
        ready=sum(worker.ready for worker in workers),
        unplaced=unplaced,
        unplaced_words=words,
        waiting=observed.demand.waiting if observed.demand else 0,
        ranks=0 if spec.accelerator == CPU else spec.parallelism.tensor,
    )


def _unplaced(
    observed: Observed, service: InferenceService, workers: tuple[Worker, ...], current: int
) -> tuple[int, str]:
    """How many replicas the scheduler or a quota has refused, and in which words. One that has only just been made is
    none of them."""
    record = operation.read(observed.service) if service.spec.parallelism.nodes > 1 else None
    if record is not None and record.tries:
        placed = sum(group.placed for group in groups_of(observed) if group.leaving is None)
        return max(0, current - placed), record.message
    found = [worker for worker in workers if worker.trouble and worker.trouble.reason == Reason.UNSCHEDULABLE]
    if found and found[0].trouble:
        return len(found), f"{found[0].name}: {found[0].trouble.message}"
    refused = pods_refused(observed)
    return (max(0, current - len(workers)), refused) if refused else (0, "")
