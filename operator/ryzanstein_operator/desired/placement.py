"""Where worker pods go: apart from each other, and away from a node that dies. Pure.

Anti-affinity counts pods that are on their way out too, as long as they are bound to their node; a topology spread does
not. So a replica that takes the place of one on a dead node keeps off that node, which the scheduler takes for well for
the better part of a minute.
"""

from collections.abc import Mapping, Sequence

from ryzanstein_operator.api.inference_service import Toleration
from ryzanstein_operator.api.wire import Manifest

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
LOST_NODE_SECONDS = 30
"""How long pods stay on a node that Kubernetes calls unreachable or not ready, where the operator has not replaced them
by then. Kubernetes takes 40 s to call it so; its own default is 300 s more."""
_LOST_NODE_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def apart(labels: Mapping[str, str]) -> list[Manifest]:
    """Preferred anti-affinity: rather on a node that no pod of these labels sits on."""
    term = {"topologyKey": HOSTNAME, "labelSelector": {"matchLabels": dict(labels)}}
    return [{"weight": 100, "podAffinityTerm": term}]


def over_zones(labels: Mapping[str, str]) -> list[Manifest]:
    """Spread over zones where there are any. It also takes the place of the cluster's own default, which spreads over
    nodes and counts a dead one as empty."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": ZONE,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(labels)},
        }
    ]


def tolerations(chosen: Sequence[Toleration]) -> list[Manifest]:
    """The user's, and short ones for nodes that Kubernetes calls lost where the user's say nothing of them."""
    return [
        *(one.to_wire() for one in chosen),
        *(
            {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_NODE_SECONDS}
            for key in _LOST_NODE_TAINTS
            if not any(_speaks_of(one, key) for one in chosen)
        ),
    ]


def _speaks_of(toleration: Toleration, key: str) -> bool:
    return (toleration.key or key) == key and toleration.effect in (None, "NoExecute")
