"""From a snapshot to the tree that `status` shows. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ryzanstein_kubectl.model.ages import seconds_since
from ryzanstein_kubectl.model.concerns import concerns, last_failure, operation, unhealthy_nodes
from ryzanstein_kubectl.model.pages import Rank, StatusPage
from ryzanstein_kubectl.model.pods import node_states, pod_of
from ryzanstein_kubectl.model.scaling import scaling, wanted
from ryzanstein_kubectl.model.snapshot import PodKey, Snapshot, group_of, is_ready, label, leaves, place_of, service_of
from ryzanstein_kubectl.model.tree import Pod, Replica, Revision, Service
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.claims import model_name
from ryzanstein_operator.desired.names import LABEL_REVISION


def tree(snapshot: Snapshot) -> tuple[Service, ...]:
    """Every service with its replicas, by namespace and name."""
    pods: dict[tuple[str, str], list[Manifest]] = defaultdict(list)
    workloads: dict[tuple[str, str], list[Manifest]] = defaultdict(list)
    for found, manifests in ((pods, snapshot.pods), (workloads, snapshot.workloads)):
        for manifest in manifests:
            found[service_of(manifest)].append(manifest)
    states = node_states(snapshot.nodes, snapshot.services)
    keyed = {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in snapshot.services}
    return tuple(_service(keyed[key], pods[key], workloads[key], states, snapshot) for key in sorted(keyed))


def _service(
    live: Manifest, pods: list[Manifest], workloads: list[Manifest], states: Mapping[str, str], snapshot: Snapshot
) -> Service:
    now, metadata, model = snapshot.taken, live["metadata"], live["spec"].get("model") or {}
    revisions = _revisions(pods, workloads, states, snapshot)
    return Service(
        namespace=metadata["namespace"],
        name=metadata["name"],
        model=model_name(live),
        uri=str(model.get("uri", "")),
        url=str(live.get("status", {}).get("url", "")),
        wanted=wanted(live),
        scaling=scaling(live),
        ready=sum(replica.ready for revision in revisions for replica in revision.replicas),
        age_seconds=seconds_since(metadata.get("creationTimestamp", ""), now),
        revisions=revisions,
        concerns=concerns(live, now),
        unhealthy_nodes=unhealthy_nodes(live, now),
        operation=operation(live, now),
        last_failure=last_failure(live, now),
    )


def _revisions(
    pods: Sequence[Manifest], workloads: Sequence[Manifest], states: Mapping[str, str], snapshot: Snapshot
) -> tuple[Revision, ...]:
    """The current revision first, then older ones."""
    by_revision: dict[str, dict[str, list[Manifest]]] = defaultdict(lambda: defaultdict(list))
    for pod in pods:
        by_revision[label(pod, LABEL_REVISION)][group_of(pod) or pod["metadata"]["name"]].append(pod)
    current = current_revision(pods, workloads)
    made = [
        Revision(name, name == current, tuple(_replica(r, replicas[r], states, snapshot) for r in sorted(replicas)))
        for name, replicas in by_revision.items()
    ]
    return tuple(sorted(made, key=lambda revision: (not revision.current, revision.name)))


def current_revision(pods: Sequence[Manifest], workloads: Sequence[Manifest]) -> str:
    """The revision of the newest workload, or where none may be read, of the newest pod."""
    if workloads:
        newest = max(workloads, key=_made)
        template = newest["spec"].get("template", {}).get("metadata", {}).get("labels") or {}
        return str(template.get(LABEL_REVISION, ""))
    return label(max(pods, key=_made), LABEL_REVISION) if pods else ""


def _made(manifest: Manifest) -> tuple[str, str]:
    return manifest["metadata"].get("creationTimestamp") or "", manifest["metadata"]["name"]


def _replica(name: str, pods: list[Manifest], states: Mapping[str, str], snapshot: Snapshot) -> Replica:
    ordered = sorted(pods, key=place_of)
    leader = ordered[0] if place_of(ordered[0]) == 0 else None
    page = snapshot.pages.get(PodKey.of(leader)) if leader else None
    shown = tuple(_pod(pod, page, states, snapshot) for pod in ordered)
    return Replica(
        name=name,
        group=bool(group_of(ordered[0])),
        ready=leader is not None and is_ready(leader) and not leaves(leader),
        pods=shown,
        load=page.load if page else None,
    )


def _pod(pod: Manifest, leads: StatusPage | None, states: Mapping[str, str], snapshot: Snapshot) -> Pod:
    """One pod with those of the ranks that run in it: the leader's page knows those of the whole group."""
    place, node = place_of(pod), pod["spec"].get("nodeName", "")
    own = snapshot.pages.get(PodKey.of(pod))
    ranks: tuple[Rank, ...] = ()
    if page := leads or own:
        ranks = tuple(rank for rank in page.ranks if rank.node_rank == place)
    return pod_of(pod, states.get(node, ""), ranks, own.accelerator_fault if own else "", snapshot.taken)
