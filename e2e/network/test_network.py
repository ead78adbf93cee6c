"""The connections that gateway, operator and workers really open are those that the table of flows lets pass.

The table itself is checked against the rendered NetworkPolicies by tests/contract. Where the cluster's network enforces
no policies (the offline node image), this is what shows that the policies would cut nothing that is needed.
"""

import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass

import flows
from cluster_view import ClusterView, KubectlError, Release
from stories import Gateway, service, streaming_clients, until

ESTABLISHED, TIME_WAIT = "01", "06"
SERVED = {flows.API, flows.HEALTH, flows.GRPC, flows.DEMAND}
GONE = "a pod that is gone"
READ = "print(open('/proc/net/tcp').read())"


@dataclass(frozen=True)
class Addresses:
    """Who stands behind an address: a pod by its labels, the API server, else the node or something else on it."""

    pods: dict[str, str]
    api_server: set[str]
    pod_networks: tuple[ipaddress.IPv4Network, ...]

    @classmethod
    def read(cls, release: Release) -> "Addresses":
        everything = json.loads(release.kubectl("get", "pods", "--all-namespaces", "-o", "json"))["items"]
        pods = {
            pod["status"]["podIP"]: flows.party_of(pod["metadata"]["namespace"], pod["metadata"].get("labels", {}))
            for pod in everything
            if pod["status"].get("podIP") and not pod["spec"].get("hostNetwork")
        }
        kubernetes = json.loads(
            release.kubectl("get", "service,endpoints", "kubernetes", "-n", "default", "-o", "json")
        )
        # An address of a Service stands for the pods behind it.
        (prometheus,) = release.items("services", "app.kubernetes.io/component=prometheus")
        pods[prometheus["spec"]["clusterIP"]] = flows.OWN_PROMETHEUS
        addresses = {kubernetes["items"][0]["spec"]["clusterIP"]}
        addresses |= {entry["ip"] for entry in kubernetes["items"][1]["subsets"][0]["addresses"]}
        nodes = json.loads(release.kubectl("get", "nodes", "-o", "json"))["items"]
        networks = tuple(ipaddress.IPv4Network(node["spec"]["podCIDR"]) for node in nodes)
        return cls(pods, addresses, networks)

    def caller(self, address: str) -> str:
        """The API server never calls ours, but the node it runs on carries what comes in by a node port."""
        return flows.NODE if address in self.api_server else self.party(address)

    def party(self, address: str) -> str:
        if address in self.api_server:
            return flows.APISERVER
        if address in self.pods:
            return self.pods[address]
        ip = ipaddress.IPv4Address(address)
        # The first address of a node's pod network is the node itself; the others are pods, for as long as they live.
        if any(ip in network and ip != network[1] for network in self.pod_networks):
            return GONE
        return flows.NODE if ip.is_private else flows.OUTSIDE


def _endpoint(field: str) -> tuple[str, int]:
    """`0100007F:1F90` of /proc/net/tcp as ("127.0.0.1", 8080): the address is in the machine's byte order."""
    address, port = field.split(":")
    return str(ipaddress.IPv4Address(bytes.fromhex(address)[::-1])), int(port, 16)


def _connections(view: Release | ClusterView, pod: str) -> Iterator[tuple[str, int, str, int]]:
    """(local address, local port, remote address, remote port) of a pod's connections, loopback left out."""
    for line in view.kubectl("exec", pod, "--", "python", "-c", READ).splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] in (ESTABLISHED, TIME_WAIT):
            (local, local_port), (remote, remote_port) = _endpoint(fields[1]), _endpoint(fields[2])
            if not ipaddress.ip_address(remote).is_loopback:
                yield local, local_port, remote, remote_port


def _seen(view: Release | ClusterView, selector: str, who: Addresses) -> set[tuple[str, str, int, str]]:
    """(source, target, port, protocol) of what the selected pods have open."""
    seen = set()
    for pod in view.items("pods", selector):
        try:
            connections = list(_connections(view, pod["metadata"]["name"]))
        except KubectlError:
            continue  # on its way out
        for local, local_port, remote, remote_port in connections:
            if local_port in SERVED:
                seen.add((who.caller(remote), who.party(local), local_port, "TCP"))
            else:
                seen.add((who.party(local), who.party(remote), remote_port, "TCP"))
    # A connection's end outlives a pod by a minute; whose it was cannot be told any more.
    return {flow for flow in seen if GONE not in flow[:2]}


def test_only_flows_of_the_table_are_seen(cluster: ClusterView, release: Release, gateway: Gateway) -> None:
    cluster.apply(service("watched", parallelism={"tensor": 2}))
    cluster.wait_ready("watched", 240)
    seen: set[tuple[str, str, int, str]] = set()

    def needed_are_seen() -> bool:
        who = Addresses.read(release)
        seen.update(_seen(cluster, "ryzanstein.dev/inference-service=watched", who))
        for component in (flows.GATEWAY, flows.OPERATOR):
            seen.update(_seen(release, f"app.kubernetes.io/component={component}", who))
        short = {(source, target, port) for source, target, port, _ in seen}
        api_server = {(source, target) for source, target, _ in short}
        return (
            (flows.GATEWAY, flows.WORKER, flows.API) in short
            and (flows.NODE, flows.WORKER, flows.HEALTH) in short
            # It ends each connection to a worker itself, so nothing of it is left to be seen there.
            and {(flows.OWN_PROMETHEUS, name, flows.HEALTH) for name in (flows.GATEWAY, flows.OPERATOR)} <= short
            and {(flows.GATEWAY, flows.APISERVER), (flows.OPERATOR, flows.APISERVER)} <= api_server
        )

    with streaming_clients(gateway, "watched", 4):
        until(300, "each needed flow is seen", needed_are_seen)
    print("flows seen:", *sorted(seen), sep="\n  ")
    assert flows.complaints(seen) == []
