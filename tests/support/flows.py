"""Which connections must pass and which must not, between whom: the table that tests and the e2e run share.

Knows the parties, their labels and ports; asks netpol for verdicts. `FLOWS` is checked against the rendered policies by
the contract tests, and against the connections seen on a real cluster by `complaints`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netpol import Manifest, Network, Peer
from ryzanstein_worker import contract

RELEASE = "ryzanstein"
RELEASE_NAMESPACE = "ryzanstein"

# Parties. Those with an address and no namespace are no pods.
GATEWAY = "gateway"
OPERATOR = "operator"
WORKER = "worker"
"""A worker whose model needs no download."""
REPLICA = "replica"
"""Another pod of the same service as WORKER."""
HUB_WORKER = "hub-worker"
"""A worker of another service, whose model comes from the hub."""
GROUP = "group"
"""The first pod of a group of several."""
GROUP_MATE = "group-mate"
"""Another pod of the same group."""
FOREIGN_WORKER = "foreign-worker"
"""A pod with a worker's labels in a namespace that is not watched."""
NEIGHBOUR = "neighbour"
"""Any other pod in the workers' namespace."""
CLIENT = "client"
"""A pod of some user, in a namespace of its own."""
PROMETHEUS = "prometheus"
"""One that is none of the release's, in a namespace of its own."""
OWN_PROMETHEUS = "own-prometheus"
"""The one that the chart brings."""
DNS = "dns"
APISERVER = "apiserver"
NODE = "node"
OUTSIDE = "outside"
"""An address on the internet, the hub's included."""


@dataclass(frozen=True)
class Flow:
    """One connection and whether it must pass."""

    source: str
    target: str
    port: int
    passes: bool
    why: str
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}:{self.port}/{self.protocol}"


def _yes(source: str, target: str, port: int, why: str, protocol: str = "TCP") -> Flow:
    return Flow(source, target, port, True, why, protocol)


def _no(source: str, target: str, port: int, why: str, protocol: str = "TCP") -> Flow:
    return Flow(source, target, port, False, why, protocol)


API, HEALTH, GRPC, DEMAND = contract.API_PORT, contract.HEALTH_PORT, contract.GRPC_PORT, contract.DEMAND_PORT

KUBELET = 10250
QUERIES = 9090
"""Where the Prometheus that the chart brings is asked."""

FLOWS: tuple[Flow, ...] = (
    # Requests take one way: in at the gateway, and from there to the workers.
    _yes(CLIENT, GATEWAY, API, "whoever has a key may call the gateway"),
    _yes(CLIENT, GATEWAY, GRPC, "over gRPC too"),
    _yes(OUTSIDE, GATEWAY, GRPC, "over gRPC too"),
    _yes(NODE, GATEWAY, GRPC, "over gRPC too"),
    _yes(OUTSIDE, GATEWAY, API, "a load balancer keeps the client's address"),
    _yes(NODE, GATEWAY, API, "a node port brings the node's address"),
    _yes(GATEWAY, WORKER, API, "requests"),
    _yes(GATEWAY, HUB_WORKER, API, "requests"),
    _yes(GATEWAY, WORKER, HEALTH, "each second the gateway asks how the worker fares"),
    _yes(GATEWAY, HUB_WORKER, HEALTH, "each second the gateway asks how the worker fares"),
    _no(GATEWAY, FOREIGN_WORKER, HEALTH, "labels alone make no worker: the namespace must be watched"),
    _no(GATEWAY, WORKER, GRPC, "requests go to workers over HTTP, whatever they came by"),
    _no(CLIENT, WORKER, GRPC, "keys are checked at the gateway, so nobody goes around it"),
    _no(NEIGHBOUR, WORKER, GRPC, "nor from the workers' own namespace"),
    _no(GATEWAY, FOREIGN_WORKER, API, "labels alone make no worker: the namespace must be watched"),
    _no(GATEWAY, NEIGHBOUR, API, "the gateway forwards to workers only"),
    _no(GATEWAY, OUTSIDE, 80, "the gateway forwards to workers only"),
    _no(CLIENT, WORKER, API, "keys are checked at the gateway, so nobody goes around it"),
    _no(NEIGHBOUR, WORKER, API, "nor from the workers' own namespace"),
    _no(REPLICA, WORKER, API, "replicas have nothing to say to one another"),
    _no(HUB_WORKER, WORKER, API, "nor have services"),
    _no(OPERATOR, WORKER, API, "the operator sends no requests"),
    _no(OUTSIDE, WORKER, API, "workers are not reached from outside"),
    # Metrics are for Prometheus alone, and only where the chart was told of it (SCRAPES).
    _no(CLIENT, GATEWAY, HEALTH, "metrics are not for users"),
    _no(CLIENT, OPERATOR, HEALTH, "metrics are not for users"),
    _no(CLIENT, WORKER, HEALTH, "metrics are not for users"),
    _no(PROMETHEUS, WORKER, API, "Prometheus reads metrics only"),
    # The release's own Prometheus reads what all of us say, and answers the operator alone.
    _yes(OWN_PROMETHEUS, GATEWAY, HEALTH, "metrics"),
    _yes(OWN_PROMETHEUS, OPERATOR, HEALTH, "metrics"),
    _yes(OWN_PROMETHEUS, WORKER, HEALTH, "metrics"),
    _yes(OWN_PROMETHEUS, HUB_WORKER, HEALTH, "metrics"),
    _yes(OWN_PROMETHEUS, GROUP, HEALTH, "metrics"),
    _yes(OWN_PROMETHEUS, GROUP_MATE, HEALTH, "metrics, of the pods of a group that serve nobody too"),
    _yes(OWN_PROMETHEUS, APISERVER, 443, "where the pods are"),
    _yes(OWN_PROMETHEUS, APISERVER, 6443, "where the pods are, after address translation"),
    _yes(OWN_PROMETHEUS, DNS, 53, "the API server may be given by name", "UDP"),
    _yes(OPERATOR, OWN_PROMETHEUS, QUERIES, "what services scale by"),
    _no(OWN_PROMETHEUS, FOREIGN_WORKER, HEALTH, "labels alone make no worker: the namespace must be watched"),
    _no(OWN_PROMETHEUS, WORKER, API, "Prometheus reads metrics only"),
    _no(OWN_PROMETHEUS, GATEWAY, API, "Prometheus reads metrics only"),
    _no(OWN_PROMETHEUS, OPERATOR, DEMAND, "Prometheus reads metrics only"),
    _no(OWN_PROMETHEUS, NODE, KUBELET, "it scrapes what is ours and no node"),
    _no(OWN_PROMETHEUS, OUTSIDE, 80, "it tells nobody"),
    _no(GATEWAY, OWN_PROMETHEUS, QUERIES, "the gateway asks it nothing"),
    _no(WORKER, OWN_PROMETHEUS, QUERIES, "a worker calls nobody"),
    _no(CLIENT, OWN_PROMETHEUS, QUERIES, "metrics are not for users"),
    _no(NEIGHBOUR, OWN_PROMETHEUS, QUERIES, "metrics are not for users"),
    _no(PROMETHEUS, OWN_PROMETHEUS, QUERIES, "until the chart is told who may ask it"),
    _no(OPERATOR, PROMETHEUS, QUERIES, "the operator asks the release's own alone"),
    # A worker has no business anywhere.
    _no(WORKER, APISERVER, 443, "a worker has no token and no call to make"),
    _no(WORKER, APISERVER, 6443, "a worker has no token and no call to make"),
    _no(WORKER, DNS, 53, "a worker without a download resolves no name", "UDP"),
    _no(WORKER, OUTSIDE, 443, "prompts stay in the cluster"),
    _no(WORKER, GATEWAY, API, "a worker calls nobody"),
    _no(WORKER, OPERATOR, HEALTH, "a worker calls nobody"),
    _no(WORKER, NEIGHBOUR, API, "a worker calls nobody"),
    # Unless its model is downloaded.
    _yes(HUB_WORKER, DNS, 53, "the hub's name", "UDP"),
    _yes(HUB_WORKER, DNS, 53, "the hub's name, when the answer is long"),
    _yes(HUB_WORKER, OUTSIDE, 443, "the download"),
    _no(HUB_WORKER, OUTSIDE, 80, "the download is encrypted"),
    _no(HUB_WORKER, APISERVER, 6443, "a worker has no token and no call to make"),
    _no(HUB_WORKER, GATEWAY, API, "a worker calls nobody"),
    _no(CLIENT, HUB_WORKER, API, "keys are checked at the gateway, so nobody goes around it"),
    # Pods of a group meet by name, and their ranks speak on ports that the kernel hands out.
    _yes(GATEWAY, GROUP, API, "requests, to the first pod"),
    _yes(GATEWAY, GROUP, HEALTH, "each second the gateway asks how the worker fares"),
    _yes(GROUP_MATE, GROUP, contract.GROUP_PORT, "the rendezvous"),
    _yes(GROUP_MATE, GROUP, 32768, "collectives"),
    _yes(GROUP, GROUP_MATE, 60999, "collectives"),
    _yes(GROUP_MATE, DNS, 53, "where the first pod is", "UDP"),
    _yes(GROUP_MATE, DNS, 53, "where the first pod is"),
    _no(GROUP_MATE, GROUP, API, "the pods of a group send each other no requests"),
    _no(GROUP_MATE, OUTSIDE, 443, "prompts stay in the cluster"),
    _no(GROUP, APISERVER, 6443, "a worker has no token and no call to make"),
    _no(GROUP, GATEWAY, API, "a worker calls nobody"),
    _no(NEIGHBOUR, GROUP, contract.GROUP_PORT, "the rendezvous is the group's own"),
    _no(NEIGHBOUR, GROUP, 40000, "so are its collectives"),
    _no(WORKER, GROUP, contract.GROUP_PORT, "another service's pods are strangers"),
    _no(GATEWAY, GROUP, contract.GROUP_PORT, "the gateway sends requests only"),
    _no(CLIENT, GROUP, contract.GROUP_PORT, "users have no business with ranks"),
    _no(GROUP, WORKER, 40000, "nor have groups with other services"),
    # Control.
    _yes(OPERATOR, APISERVER, 443, "watches and writes"),
    _yes(OPERATOR, APISERVER, 6443, "watches and writes, after address translation"),
    _yes(OPERATOR, DNS, 53, "the API server may be given by name", "UDP"),
    _yes(OPERATOR, NODE, KUBELET, "does the kubelet of a node that nobody reaches still answer?"),
    _no(OPERATOR, NODE, 10255, "the kubelet's door without a key is none of the operator's"),
    _no(GATEWAY, NODE, KUBELET, "the gateway asks workers only"),
    _no(WORKER, NODE, KUBELET, "a worker calls nobody"),
    _no(OPERATOR, OUTSIDE, 80, "the operator calls the API server and kubelets only"),
    _no(OPERATOR, GATEWAY, API, "the operator sends no requests"),
    _yes(GATEWAY, APISERVER, 443, "watches"),
    _yes(GATEWAY, APISERVER, 6443, "watches, after address translation"),
    _yes(GATEWAY, DNS, 53, "the API server may be given by name", "UDP"),
    _yes(GATEWAY, OPERATOR, DEMAND, "requests wait for a replica"),
    _no(GATEWAY, OPERATOR, HEALTH, "the gateway asks the operator nothing"),
    _no(NEIGHBOUR, OPERATOR, HEALTH, "nobody else calls the operator"),
    _no(NEIGHBOUR, OPERATOR, DEMAND, "nobody else calls the operator"),
    _no(CLIENT, OPERATOR, DEMAND, "nobody else calls the operator"),
    _no(WORKER, OPERATOR, DEMAND, "a worker calls nobody"),
    _no(PROMETHEUS, OPERATOR, DEMAND, "Prometheus reads metrics only"),
    _no(OPERATOR, GATEWAY, DEMAND, "the operator answers, and asks nothing"),
)

SCRAPES: tuple[tuple[str, str, int], ...] = tuple(
    (PROMETHEUS, target, HEALTH) for target in (GATEWAY, OPERATOR, WORKER)
)
"""Pass where the chart knows Prometheus' namespace, and only there."""

PROBES: tuple[tuple[str, str, int], ...] = tuple(
    (NODE, target, QUERIES if target == OWN_PROMETHEUS else HEALTH)
    for target in (GATEWAY, OPERATOR, WORKER, REPLICA, HUB_WORKER, OWN_PROMETHEUS)
)
"""The kubelet's, from the node that the pod is on. Kubernetes lets them pass whatever the policies say."""


def parties(worker_labels: Mapping[str, Mapping[str, str]], worker_namespace: str) -> dict[str, Peer]:
    """Every party. `worker_labels`: the pod labels of WORKER, HUB_WORKER and GROUP as the operator renders them."""
    ports = {"api": API, "health": HEALTH, "grpc": GRPC, "demand": DEMAND}
    worker = dict(worker_labels[WORKER])
    return {
        GATEWAY: Peer("10.244.1.10", RELEASE_NAMESPACE, release_labels(GATEWAY), ports),
        OPERATOR: Peer("10.244.1.11", RELEASE_NAMESPACE, release_labels(OPERATOR), ports),
        OWN_PROMETHEUS: Peer("10.244.1.19", RELEASE_NAMESPACE, release_labels("prometheus"), {"http": QUERIES}),
        WORKER: Peer("10.244.1.12", worker_namespace, worker, ports),
        REPLICA: Peer("10.244.2.12", worker_namespace, worker, ports),
        HUB_WORKER: Peer("10.244.2.13", worker_namespace, dict(worker_labels[HUB_WORKER]), ports),
        GROUP: Peer("10.244.1.18", worker_namespace, dict(worker_labels[GROUP]), ports),
        GROUP_MATE: Peer("10.244.2.18", worker_namespace, dict(worker_labels[GROUP]), ports),
        FOREIGN_WORKER: Peer("10.244.2.14", "elsewhere", worker, ports),
        NEIGHBOUR: Peer("10.244.2.15", worker_namespace, {"app": "neighbour"}),
        CLIENT: Peer("10.244.2.16", "users", {"app": "client"}),
        PROMETHEUS: Peer("10.244.2.17", "monitoring", {"app.kubernetes.io/name": "prometheus"}),
        DNS: Peer("10.244.0.2", "kube-system", {"k8s-app": "kube-dns"}),
        APISERVER: Peer("172.18.0.2"),
        NODE: Peer("172.18.0.3"),
        OUTSIDE: Peer("93.184.215.14"),
    }


def release_labels(component: str) -> dict[str, str]:
    """What the chart selects the pods of a component by."""
    return {
        contract.LABEL_NAME: "ryzanstein",
        contract.LABEL_INSTANCE: RELEASE,
        contract.LABEL_COMPONENT: component,
    }


def network(policies: Iterable[Manifest], worker_namespace: str) -> Network:
    """The cluster that the parties live in."""
    names = {RELEASE_NAMESPACE, worker_namespace, "elsewhere", "users", "monitoring", "kube-system"}
    return Network(tuple(policies), {name: {"kubernetes.io/metadata.name": name} for name in names})


def party_of(namespace: str, labels: Mapping[str, str]) -> str:
    """The party that a pod seen on a cluster is. Every worker counts as WORKER, any pod that is not ours as CLIENT."""
    if namespace == "kube-system":
        names = {"kube-dns": DNS, "kube-apiserver": APISERVER}
        return names.get(labels.get("k8s-app") or labels.get("component") or "", NODE)
    if labels.get(contract.LABEL_ROLE) == contract.ROLE_WORKER:
        return WORKER
    component = labels.get(contract.LABEL_COMPONENT, "")
    ours = {GATEWAY: GATEWAY, OPERATOR: OPERATOR, "prometheus": OWN_PROMETHEUS}
    return ours.get(component, CLIENT) if labels.get(contract.LABEL_NAME) == "ryzanstein" else CLIENT


def complaints(seen: Iterable[tuple[str, str, int, str]]) -> list[str]:
    """A sentence for each connection (source, target, port, protocol) between parties that is not in the table.

    What does not touch a pod of the release or a worker is none of ours. The kubelet's probes are expected.
    """
    passing = {(flow.source, flow.target, flow.port, flow.protocol) for flow in FLOWS if flow.passes}
    passing |= {(*probe, "TCP") for probe in PROBES}
    ours = {GATEWAY, OPERATOR, WORKER, HUB_WORKER, REPLICA, OWN_PROMETHEUS}
    strange = {entry for entry in seen if {entry[0], entry[1]} & ours} - passing
    return [
        f"{source} opened a connection to {target}:{port}/{protocol}, which the table of flows does not let pass"
        for source, target, port, protocol in sorted(strange)
    ]
