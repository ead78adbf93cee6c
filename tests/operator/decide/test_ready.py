"""Ready stays True through whatever a rollout goes through, as long as as many serve as `maxUnavailable` leaves."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from operator_builders import NOW, SETTINGS, deployment_says, live_children, pod, ready_pod, service, settled, status_in
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import Observed, Ref
from ryzanstein_operator.decide.plan import PatchStatus
from ryzanstein_operator.decide.reconcile import reconcile

OLD = "0123456789"
REFUSED = {Ref("apps/v1", "Deployment", "team", "chat"): "admission webhook said no"}
UNDERWAY = {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}
KINDS = ("old ready", "old down", "new ready", "new down")
EVENTS = {
    "an old one leaves": ("old ready", None),
    "an old one breaks": ("old ready", "old down"),
    "an old one that was broken leaves": ("old down", None),
    "a new one is made": (None, "new down"),
    "a new one gets ready": ("new down", "new ready"),
    "a new one breaks": ("new ready", "new down"),
}


@dataclass(frozen=True)
class Rollout:
    """A service that is being given another revision, and a pod of each kind to copy."""

    live: Manifest
    pods: dict[str, Manifest]
    children: tuple[Manifest, ...]

    @classmethod
    def of(cls, replicas: int, unavailable: int) -> "Rollout":
        """All old replicas are ready, and the status has said so; then the spec is edited."""
        live = service(replicas=replicas, disruption={"maxUnavailable": unavailable})
        before = settled(live, *[ready_pod(live, f"old-{n}") for n in range(replicas)])
        status = status_in(reconcile(before, SETTINGS, NOW))
        live = service(replicas=replicas, disruption={"maxUnavailable": unavailable}, engine={"maxModelLen": 4096})
        made = (ready_pod(live, revision=OLD), pod(live, revision=OLD), ready_pod(live), pod(live))
        children = deployment_says(live_children(live), UNDERWAY)
        return cls(live | {"status": status}, dict(zip(KINDS, made, strict=True)), children)

    def visited(self, counts: dict[str, int], *, refused: bool) -> "Rollout":
        """After a visit that saw that many pods of each kind."""
        pods = tuple(_named(self.pods[kind], f"{kind}-{n}") for kind in KINDS for n in range(counts[kind]))
        seen = Observed(self.live, children=self.children, pods=pods, refused=REFUSED if refused else {})
        actions = reconcile(seen, SETTINGS, NOW).actions
        status = next((one.status for one in actions if isinstance(one, PatchStatus)), self.live["status"])
        return replace(self, live=self.live | {"status": status})

    @property
    def ready(self) -> bool:
        return any(one["type"] == "Ready" and one["status"] == "True" for one in self.live["status"]["conditions"])


def _named(found: Manifest, name: str) -> Manifest:
    return {**found, "metadata": {**found["metadata"], "name": name}}


def story(replicas: int, events: list[str]) -> Iterator[dict[str, int]]:
    """How many pods of each kind there are after each event; one that cannot happen is left out."""
    counts = {"old ready": replicas, "old down": 0, "new ready": 0, "new down": 0}
    for event in events:
        source, target = EVENTS[event]
        if source and not counts[source]:
            continue
        counts = dict(counts)
        for kind, change in ((source, -1), (target, 1)):
            if kind:
                counts[kind] += change
        yield counts


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(0, 2),
    st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.integers(0, 9)), min_size=4, max_size=14),
)
def test_ready_stays_true_in_a_rollout_while_enough_replicas_serve(
    replicas: int, unavailable: int, events: list[tuple[str, int]]
) -> None:
    rollout = Rollout.of(replicas, unavailable)
    assert rollout.ready
    enough = max(1, replicas - unavailable)
    for counts, (_, chance) in zip(story(replicas, [event for event, _ in events]), events, strict=False):
        was, serving = rollout.ready, counts["old ready"] + counts["new ready"]
        rollout = rollout.visited(counts, refused=chance == 0)
        assert rollout.ready or not was or serving < enough, f"Ready was lost at {counts}"
        assert not rollout.ready or serving >= enough, f"Ready is a lie at {counts}"


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 3))
def test_a_first_start_is_ready_only_when_every_replica_is(replicas: int, unavailable: int, ready: int) -> None:
    fresh = Rollout.of(replicas, unavailable)
    fresh = replace(fresh, live={**fresh.live, "status": {}})
    up = min(ready, replicas)
    counts = {"old ready": 0, "old down": 0, "new ready": up, "new down": replicas - up}
    assert fresh.visited(counts, refused=False).ready is (up == replicas)
