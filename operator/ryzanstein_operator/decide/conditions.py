"""The conditions: facts into words. Pure; one function a condition, each giving status, reason and message."""

from typing import NamedTuple

from ryzanstein_operator.api.conditions import ConditionType, Status
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.decide import scaled
from ryzanstein_operator.decide.facts import Facts
from ryzanstein_operator.decide.pods import Trouble


class Verdict(NamedTuple):
    """A condition before it is dated."""

    status: Status
    reason: Reason
    message: str


def verdicts(facts: Facts) -> dict[ConditionType, Verdict]:
    """All conditions, in the order in which they are shown."""
    return {
        ConditionType.READY: _ready(facts),
        ConditionType.SERVING: _serving(facts),
        ConditionType.PROGRESSING: _progressing(facts),
        ConditionType.MODEL_CACHED: _model_cached(facts),
        ConditionType.CAPACITY_AVAILABLE: _capacity(facts),
        ConditionType.SCALING_ACTIVE: Verdict(*scaled.scaling_active(facts)),
        ConditionType.SCALING_LIMITED: Verdict(*scaled.scaling_limited(facts)),
        ConditionType.DEGRADED: _degraded(facts),
    }


def _ready(facts: Facts) -> Verdict:
    if facts.blocked:
        return _ready_though_blocked(facts, facts.blocked)
    if facts.rival:
        return Verdict("False", Reason.MODEL_NAME_TAKEN, _rival_words(facts))
    if facts.wanted == 0:
        return Verdict("False", Reason.SCALED_TO_ZERO, scaled.zero_words(facts))
    count = f"{len(facts.ready)} of {facts.wanted} replicas are ready"
    if facts.all_updated and len(facts.ready) >= facts.wanted:
        return Verdict("True", Reason.ALL_REPLICAS_READY, count)
    if not facts.all_updated and facts.enough:
        return Verdict("True", Reason.PREVIOUS_REVISION_SERVES, f"{count} while the new revision starts")
    if facts.was_ready and facts.enough and not facts.rolled_out:
        # The last old replica is gone before the last new one is ready: with maxUnavailable, that is how it goes.
        return Verdict("True", Reason.ROLLING_OUT, f"{count}, as many as maxUnavailable asks for in a rollout")
    if facts.growing:
        return Verdict("True", Reason.SCALING_UP, f"{count}; {_waited_for(facts)}")
    return _not_up(facts, count)


def _ready_though_blocked(facts: Facts, blocked: Trouble) -> Verdict:
    """A change that cannot be made takes nothing away from what serves."""
    if not (facts.was_ready and facts.enough):
        return Verdict("False", blocked.reason, blocked.message)
    words = f"{len(facts.ready)} replicas made before go on; the change cannot be made: {blocked.message}"
    return Verdict("True", Reason.PREVIOUS_REVISION_SERVES, words)


def _serving(facts: Facts) -> Verdict:
    if facts.rival:
        return Verdict("False", Reason.MODEL_NAME_TAKEN, _rival_words(facts))
    if facts.answering:
        plural = "replica answers" if facts.answering == 1 else "replicas answer"
        return Verdict("True", Reason.ENDPOINTS_READY, f"{facts.answering} {plural} requests")
    if facts.blocked:
        return Verdict("False", facts.blocked.reason, facts.blocked.message)
    if facts.wanted == 0:
        return Verdict("False", Reason.SCALED_TO_ZERO, f"{scaled.zero_words(facts)}; requests wait for one")
    return _not_up(facts, "no replica answers requests yet")


def _not_up(facts: Facts, count: str) -> Verdict:
    if facts.trouble:
        return Verdict("False", facts.trouble.reason, f"{count}; {_trouble_words(facts, facts.trouble)}")
    return Verdict("False", Reason.REPLICAS_STARTING, f"{count}; {_waited_for(facts)}")


def _waited_for(facts: Facts) -> str:
    """The first pod that is not ready, and what it does; else what else is missing."""
    waiting = [worker for worker in facts.workers if not worker.ready]
    if waiting:
        others = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
        return f"{waiting[0].name}{others} {waiting[0].step}"
    if len(facts.workers) < facts.wanted:
        what = f"the Deployment has made {len(facts.workers)} pods"
        return what if facts.turn is None else f"{len(facts.workers)} groups of pods have been made"
    return f"{facts.ready[0].name} is ready, and no gateway has found it so far"


def _trouble_words(facts: Facts, trouble: Trouble) -> str:
    """The worst trouble, with the name of the pod that has it and how many others are broken."""
    if facts.culprit is None:
        spoken = trouble in (facts.node_trouble, facts.withheld)
        return trouble.message if spoken else f"the Deployment: {trouble.message}"
    others = f" (and {len(facts.broken) - 1} more)" if len(facts.broken) > 1 else ""
    return f"{facts.culprit.name}{others}: {trouble.message}"


def _progressing(facts: Facts) -> Verdict:
    if facts.blocked:
        return Verdict("False", facts.blocked.reason, facts.blocked.message)
    words = f"{len(facts.updated)} of {facts.wanted} replicas run revision {facts.revision}"
    if facts.settled:
        return Verdict("False", Reason.ROLLOUT_COMPLETE, words)
    if facts.stalled:
        return Verdict("False", Reason.ROLLOUT_STALLED, f"{words}, and that has not changed for long: {_cause(facts)}")
    ready = sum(worker.ready for worker in facts.updated)
    leaving = len(facts.workers) - len(facts.updated)
    rest = f", and {leaving} of an older revision {'is' if leaving == 1 else 'are'} left" if leaving else ""
    words = f"{words}, {ready} of them ready{rest}"
    if facts.turn and facts.turn.in_place:
        words = f"no nodes for spec.disruption.maxSurge, old groups go first; {words}"
        return Verdict("True", Reason.NO_SPARE_CAPACITY, words)
    return Verdict("True", Reason.ROLLING_OUT, words)


def _cause(facts: Facts) -> str:
    if facts.trouble:
        return _trouble_words(facts, facts.trouble)
    waiting = [worker for worker in facts.updated if not worker.ready]
    return f"{waiting[0].name} {waiting[0].step}" if waiting else facts.stalled


def _model_cached(facts: Facts) -> Verdict:
    if facts.service is None:
        return Verdict("Unknown", Reason.INVALID_SPEC, "the spec cannot be read")
    model = facts.service.spec.model
    scheme, _, rest = model.uri.partition("://")
    claimless = _first(facts, Reason.CLAIM_UNAVAILABLE)
    if scheme in ("demo", "file"):
        return Verdict("True", Reason.IN_IMAGE, "the model is part of the worker's image")
    if claimless:
        return Verdict("False", Reason.CLAIM_UNAVAILABLE, claimless)
    if scheme == "pvc" and _first(facts, Reason.POD_NOT_SET_UP) and not facts.ready:
        return Verdict("Unknown", Reason.PENDING, f"the volume claim {rest.partition('/')[0]} is not mounted so far")
    if scheme == "pvc":
        return Verdict("True", Reason.ON_CLAIM, f"the model is read from the volume claim {rest.partition('/')[0]}")
    failing = _first(facts, Reason.DOWNLOAD_FAILING)
    if any(worker.fetched for worker in facts.updated):
        return Verdict("True", Reason.DOWNLOADED, f"{model.uri} is downloaded")
    if failing:
        return Verdict("False", Reason.DOWNLOAD_FAILING, failing)
    fetching = next((worker for worker in facts.updated if worker.fetched is False), None)
    if fetching:
        return Verdict("False", Reason.DOWNLOADING, f"{fetching.name} downloads {model.uri}")
    return Verdict("Unknown", Reason.PENDING, "no replica has begun to download the model")


def _capacity(facts: Facts) -> Verdict:
    if facts.service is None:
        return Verdict("Unknown", Reason.INVALID_SPEC, "the spec cannot be read")
    if facts.pods_refused:
        return Verdict("False", Reason.PODS_REFUSED, facts.pods_refused)
    without = [worker for worker in facts.workers if not worker.scheduled]
    words = _first(facts, Reason.UNSCHEDULABLE)
    if words:
        count = sum(1 for worker in without if worker.trouble and worker.trouble.reason == Reason.UNSCHEDULABLE)
        held = f"; {facts.leftovers[0]}" if facts.leftovers else ""
        words = f"{count} of {facts.wanted} replicas have no node; {words}{held}"
        return Verdict("False", Reason.UNSCHEDULABLE, words)
    if facts.withheld:
        return Verdict("False", Reason.UNSCHEDULABLE, facts.withheld.message)
    claimless = _first(facts, Reason.CLAIM_UNAVAILABLE)
    if claimless:
        return Verdict("Unknown", Reason.CLAIM_UNAVAILABLE, "no node is chosen before the volume claim is bound")
    if facts.wanted == 0:
        return Verdict("True", Reason.SCALED_TO_ZERO, scaled.zero_words(facts))
    if without or len(facts.workers) < facts.wanted:
        placed = len(facts.workers) - len(without)
        return Verdict("Unknown", Reason.PENDING, f"{placed} of {facts.wanted} replicas have a node so far")
    return Verdict("True", Reason.SCHEDULED, "every replica has a node")


def _degraded(facts: Facts) -> Verdict:
    if facts.blocked:
        return Verdict("True", facts.blocked.reason, facts.blocked.message)
    if facts.trouble:
        return Verdict("True", facts.trouble.reason, _trouble_words(facts, facts.trouble))
    if facts.stalled and not facts.settled:
        words = f"revision {facts.revision} has made no progress for long: {_cause(facts)}"
        return Verdict("True", Reason.ROLLOUT_STALLED, words)
    if facts.leftovers:
        others = f" (and {len(facts.leftovers) - 1} more)" if len(facts.leftovers) > 1 else ""
        return Verdict("True", Reason.STUCK_TERMINATING, f"{facts.leftovers[0]}{others}")
    return Verdict("False", Reason.AS_EXPECTED, "no replica is broken")


def _first(facts: Facts, reason: Reason) -> str:
    """The first by name of the pods that are broken for `reason`, and its message; empty where there is none."""
    found = [worker for worker in facts.broken if worker.trouble and worker.trouble.reason == reason]
    return f"{found[0].name}: {found[0].trouble.message}" if found and found[0].trouble else ""


def _rival_words(facts: Facts) -> str:
    name = facts.service.model_name if facts.service else "its model name"
    return (
        f"the older InferenceService {facts.rival} answers under the model name {name}; "
        "give this one another spec.model.name, or delete one of the two"
    )
