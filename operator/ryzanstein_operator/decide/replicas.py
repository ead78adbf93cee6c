"""Groups of pods as the replicas that the status speaks of: one Worker for all pods of a group. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ryzanstein_operator.decide.groups import Group
from ryzanstein_operator.decide.pods import Trouble, Worker, worst


def as_replicas(groups: Iterable[Group], workers: Sequence[Worker]) -> tuple[Worker, ...]:
    """One Worker for each group that is not being deleted. `workers`: those of the single pods.

    It bears the name of the pod to speak of: the one that is to blame, else the first that is not ready.
    """
    pods = {worker.name: worker for worker in workers}
    return tuple(
        _replica(group, [pods[member.name] for member in group.staying if member.name in pods])
        for group in groups
        if group.leaving is None
    )


def _replica(group: Group, pods: Sequence[Worker]) -> Worker:
    if not pods:
        return Worker(group.name, "", group.revision, False, False, None, None, "has no pod so far")
    trouble = _gravest(pods)
    spoken = next((pod for pod in pods if pod.trouble == trouble and trouble), None)
    spoken = spoken or next((pod for pod in pods if not pod.ready), pods[0])
    fetched = {pod.fetched for pod in pods}
    return replace(
        spoken,
        node=pods[0].node,
        companions=tuple(pod.node for pod in pods[1:] if pod.node),
        revision=group.revision,
        ready=group.ready,
        scheduled=group.placed,
        fetched=None if None in fetched else all(fetched),
        trouble=trouble,
        step=spoken.step if not spoken.ready else f"waits for the other pods of {group.name}",
    )


def _gravest(pods: Sequence[Worker]) -> Trouble | None:
    """The worst; of two as bad, that of the pod whose own rank ended before that of one that ended for its sake."""
    found = [pod.trouble for pod in pods if pod.trouble]
    first = [trouble for trouble in found if not trouble.witness]
    gravest = worst(found)
    return worst([trouble for trouble in first if gravest and trouble.reason == gravest.reason]) or gravest
