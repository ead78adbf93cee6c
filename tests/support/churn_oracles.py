"""What must hold of a namespace at rest: it is as the specs say, and only as they say, whatever came before.

Reads what the recorder has seen; makes no call.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Mapping

from faultcases.recorder import History, Ident, Manifest
from faultcases.snapshot import Flat, flatten
from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.reasons import REASONS
from ryzanstein_operator.api.wire import parse
from ryzanstein_operator.cluster.resources import CHILDREN, SERVICES
from ryzanstein_operator.decide import claims
from ryzanstein_operator.decide.compare import differences
from ryzanstein_operator.decide.observed import Ref
from ryzanstein_operator.decide.reconcile import reconcile_routes
from ryzanstein_operator.desired.children import children
from ryzanstein_operator.settings import Settings
from ryzanstein_worker import contract
from spec_strategies import impossible

Objects = Mapping[Ident, Manifest]
CONDITIONS = [str(kind) for kind in REASONS]
_KINDS = {resource.kind for resource in CHILDREN}
_GROUP = re.compile(r"--\*-\d+")
"""A group's number, behind the revision that `flatten` masks: which it is depends on those that were before."""
_CHANGES_WITH_LIFE = ("generation", "observedGeneration", "deployment.kubernetes.io/revision", "pod-template-hash")


def services(objects: Objects) -> list[Manifest]:
    return [one for (kind, _), one in objects.items() if kind == SERVICES.kind]


def at_rest(objects: Objects) -> bool:
    """Every service has been seen as it is, its pods are as many as it asks for, and nothing is on its way out."""
    pods = [one for (kind, _), one in objects.items() if kind == "Pod"]
    if any("deletionTimestamp" in one["metadata"] for one in objects.values()):
        return False
    possible = [one for one in services(objects) if not impossible(one["spec"])]
    return all(_told(one) for one in services(objects)) and all(_whole(one, pods) for one in possible)


def _told(service: Manifest) -> bool:
    return bool(service.get("status", {}).get("observedGeneration") == service["metadata"]["generation"])


def _whole(service: Manifest, pods: list[Manifest]) -> bool:
    own = [pod for pod in pods if pod["metadata"]["labels"].get(contract.LABEL_SERVICE) == service["metadata"]["name"]]
    said = {one["type"]: one for one in service["status"]["conditions"]}
    wanted = service["spec"]["replicas"] * service["spec"]["parallelism"].get("nodes", 1)
    return len(own) == wanted and all(map(_ready, own)) and said["Progressing"]["reason"] == "RolloutComplete"


def _ready(pod: Manifest) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def faults(objects: Objects, settings: Settings) -> list[str]:
    """A line for each thing that is not as the specs say, in a namespace at rest."""
    found = []
    owners = claims.owners(services(objects))
    for service in services(objects):
        name = service["metadata"]["name"]
        first = claims.same(owners[claims.model_name(service)], service)
        found += [f"{name}: {words}" for words in _of_children(service, objects, settings)]
        found += [f"{name}: {words}" for words in _of_conditions(service, first=first)]
    table = reconcile_routes(services(objects), objects.get(("ConfigMap", contract.ROUTES_CONFIG_MAP)), settings)
    return [*found, *table.details, *_orphans(objects)]


def _of_children(service: Manifest, objects: Objects, settings: Settings) -> list[str]:
    found = []
    for wanted in children(parse(InferenceService, service), settings, service["spec"]["replicas"]):
        live = objects.get((wanted["kind"], wanted["metadata"]["name"]))
        if live is None:
            found.append(f"{Ref.of(wanted)} is missing")
        else:
            found += [f"{Ref.of(wanted)} differs in {path}" for path in differences(live, wanted)]
    return found


def _of_conditions(service: Manifest, *, first: bool) -> list[str]:
    """first: no older service has its model name."""
    status, generation = service["status"], service["metadata"]["generation"]
    conditions = status["conditions"]
    if [one["type"] for one in conditions] != CONDITIONS:
        return [f"its conditions are {[one['type'] for one in conditions]}"]
    said = {one["type"]: one for one in conditions}
    found = [f"{one['type']} is of another generation" for one in conditions if one["observedGeneration"] != generation]
    found += [f"{one['type']} has no reason known" for one in conditions if one["reason"] not in REASONS[one["type"]]]
    found += [f"{one['type']} has no message" for one in conditions if not 0 < len(one["message"]) <= 1024]
    if impossible(service["spec"]):
        return found
    wanted = service["spec"]["replicas"]
    expected = {
        "Ready": first and wanted > 0,
        "Serving": first and wanted > 0,
        "Progressing": False,
        "ModelCached": True,
        "CapacityAvailable": True,
        "Degraded": False,
    }
    for kind, value in expected.items():
        # Nobody has downloaded a model for a service without replicas.
        if said[kind]["status"] != str(value) and not (kind == "ModelCached" and wanted == 0):
            found.append(f"{kind} is {said[kind]['status']} {said[kind]['reason']}: {said[kind]['message']}")
    if status["readyReplicas"] != wanted:
        found.append(f"{status['readyReplicas']} of {wanted} replicas are said to be ready")
    if status.get("operation"):
        found.append(f"{status['operation']['type']} goes on: {status['operation']['message']}")
    if expected["Serving"] and not said["Serving"]["message"].startswith(f"{wanted} "):
        found.append(f"of {wanted} replicas, {said['Serving']['message']}")
    return found


def _orphans(objects: Objects) -> list[str]:
    uids = {one["metadata"]["uid"] for one in objects.values()}
    return [
        f"{' '.join(ident)} belongs to {owner['kind']} {owner['name']}, which is gone"
        for ident, one in objects.items()
        for owner in one["metadata"].get("ownerReferences", ())
        if owner["kind"] != "Node" and owner["uid"] not in uids
    ]


def broken_states(history: History) -> list[str]:
    """Of every state that was ever there: no conditions yet, or exactly the six."""
    told = [state for state in history.ordered() if state.kind == SERVICES.kind and "status" in state.manifest]
    seen = [(state, [one["type"] for one in state.manifest["status"].get("conditions", ())]) for state in told]
    return [f"at version {state.version}: {state.ident[1]} has {types}" for state, types in seen if types != CONDITIONS]


def end_state(objects: Objects, namespace: str) -> Flat:
    """What must be the same of two namespaces with the same specs: services, children, pods' specs, the route table."""
    kinds = {SERVICES.kind, "Pod", "ConfigMap", *_KINDS}
    found = [flatten({ident: _without_life(one)}, namespace) for ident, one in objects.items() if ident[0] in kinds]
    masked = [{_GROUP.sub("--*-N", path): _GROUP.sub("--*-N", leaf) for path, leaf in flat.items()} for flat in found]
    seen: Counter[str] = Counter()
    state: Flat = {}
    for flat in sorted(masked, key=lambda one: json.dumps(one, sort_keys=True)):
        title = next(iter(flat)).partition(".")[0]
        seen[title] += 1
        state |= {f"{title}#{seen[title]}{path.removeprefix(title)}": leaf for path, leaf in flat.items()}
    return state


def _without_life(manifest: Manifest) -> Manifest:
    """Less what counts or dates what has happened to the object."""
    kept = _without(copy.deepcopy(manifest))
    kept["metadata"]["generation"] = 0  # `flatten` looks for it
    if manifest["kind"] == SERVICES.kind:
        del kept["status"]["nodes"]  # the scheduler's choice
        return kept
    kept.pop("status", None)
    if manifest["kind"] == "Pod":  # the API server and the scheduler add to these
        kept["metadata"] = {"name": manifest["metadata"]["name"], "labels": kept["metadata"]["labels"], "generation": 0}
        kept["spec"].pop("hostname", None)
    return kept


def _without(value: Manifest) -> Manifest:
    kept = {key: inner for key, inner in value.items() if key not in _CHANGES_WITH_LIFE}
    for key, inner in kept.items():
        if isinstance(inner, dict):
            kept[key] = _without(inner)
        elif isinstance(inner, list):
            kept[key] = [_without(one) if isinstance(one, dict) else one for one in inner]
    return kept
