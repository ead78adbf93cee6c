"""The StatefulSet of one group: a replica whose ranks are spread over several pods. Pure.

One StatefulSet a replica and revision, its template never changed: its pods have names to meet by from the first
moment, and never run two revisions. Which groups there are to be is decided elsewhere.
"""

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.metadata import manifest
from ryzanstein_operator.desired.placement import HOSTNAME, apart
from ryzanstein_operator.desired.workers import bare_template, revision_of
from ryzanstein_operator.settings import Settings
from ryzanstein_worker.contract import ENV_GROUP_KEY_FILE, ENV_REVISION, GROUP_PORT, LABEL_GROUP, LABEL_POD_INDEX

KEY = "key"
"""Of the Secret, and the name of the file it becomes."""
_KEY_VOLUME = "group-key"
_KEY_DIR = "/etc/ryzanstein/group"
_KEY_MODE = 0o440  # root's, and readable to the pod's fsGroup, which the worker runs as
_ENV_NODE_RANK = "RYZANSTEIN_NODE_RANK"


def revision(service: InferenceService, settings: Settings) -> str:
    """What tells the groups of this spec from those of an older one: a hash of all that a group's pods see."""
    return revision_of(_template(service, settings, "", ""))


def key_secret(service: InferenceService) -> Manifest:
    """The Secret with the key of a service's groups, without its value, which is for the one who creates it to draw."""
    return manifest("v1", "Secret", service, {"type": "Opaque"}, name=names.group_key(service.metadata.name))


def stateful_set(service: InferenceService, settings: Settings, index: int) -> Manifest:
    """The group number `index` of the latest revision. All its pods start at once: they wait for each other."""
    latest, name = revision(service, settings), service.metadata.name
    group = names.group(name, latest, index)
    spec = {
        "replicas": service.spec.parallelism.nodes,
        "serviceName": names.group_service(name),
        "podManagementPolicy": "Parallel",
        # Should somebody change the template all the same, no pod is exchanged for it before it is put back.
        "updateStrategy": {"type": "OnDelete"},
        "revisionHistoryLimit": 0,
        "selector": {"matchLabels": {**names.selector(name), LABEL_GROUP: group}},
        "template": _template(service, settings, group, latest),
    }
    labels = {LABEL_GROUP: group, names.LABEL_REVISION: latest}
    return manifest(*names.GROUP_KIND, service, {"spec": spec}, name=group, labels=labels)


def _template(service: InferenceService, settings: Settings, group: str, latest: str) -> Manifest:
    """With an empty group and revision it is what the revision is made from."""
    template = bare_template(service, settings)
    template["metadata"]["labels"] |= {LABEL_GROUP: group, names.LABEL_REVISION: latest}
    pod = template["spec"]
    (worker,) = pod["containers"]
    worker["args"] += _arguments(service, group)
    worker["env"] += _environment(latest)
    worker["ports"].append({"name": "group", "containerPort": GROUP_PORT})
    worker["volumeMounts"].append({"name": _KEY_VOLUME, "mountPath": _KEY_DIR, "readOnly": True})
    secret = {
        "secretName": names.group_key(service.metadata.name),
        "defaultMode": _KEY_MODE,
        "items": [{"key": KEY, "path": KEY}],
    }
    pod["volumes"].append({"name": _KEY_VOLUME, "secret": secret})
    _place_together(pod, service, group)
    return template


def _arguments(service: InferenceService, group: str) -> list[str]:
    leader = names.group_leader(service.metadata.name, service.metadata.namespace, group)
    return [
        *("--nnodes", str(service.spec.parallelism.nodes), "--node-rank", f"$({_ENV_NODE_RANK})"),
        *("--master-addr", leader, "--master-port", str(GROUP_PORT)),
    ]


def _environment(latest: str) -> list[Manifest]:
    place = {"fieldRef": {"fieldPath": f"metadata.labels['{LABEL_POD_INDEX}']"}}
    return [
        {"name": _ENV_NODE_RANK, "valueFrom": place},
        {"name": ENV_REVISION, "value": latest},
        {"name": ENV_GROUP_KEY_FILE, "value": f"{_KEY_DIR}/{KEY}"},
    ]


def _place_together(pod: Manifest, service: InferenceService, group: str) -> None:
    """Each pod of the group on a node of its own, and where asked for, all within one value of the topology's label."""
    same = {"labelSelector": {"matchLabels": {LABEL_GROUP: group}}}
    affinity = pod.setdefault("affinity", {})
    terms = affinity.setdefault("podAntiAffinity", {})
    terms["requiredDuringSchedulingIgnoredDuringExecution"] = [{**same, "topologyKey": HOSTNAME}]
    # Rather where no other group sits, one that is being taken off a dead node included.
    terms["preferredDuringSchedulingIgnoredDuringExecution"] = apart(names.selector(service.metadata.name))
    if service.spec.parallelism.topology_key:
        near = [{**same, "topologyKey": service.spec.parallelism.topology_key}]
        affinity["podAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": near}
