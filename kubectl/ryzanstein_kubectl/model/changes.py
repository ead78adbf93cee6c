"""A Plan as changes that a person can read: what is made, changed and deleted, each with a diff. Pure.

A diff compares what the operator names in a manifest with the same fields as they are; what others set is left out.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.compare import covers
from ryzanstein_operator.decide.observed import Ref
from ryzanstein_operator.decide.plan import Apply, CreateKey, Delete, EmitEvent, PatchStatus, PatchTaints, Plan
from ryzanstein_operator.desired.names import ANNOTATION_APPLIED, LABEL_REVISION

_ITEM_KEYS = ("name", "mountPath", "type", "topologyKey", "uid")
"""What an item of a list is known by, the first that all items have."""

Write = Apply | CreateKey | Delete | PatchTaints


@dataclass(frozen=True)
class Change:
    """One write. action: create, change, delete, or another word; about: the object; diff: unified, may be empty."""

    action: str
    about: str
    why: str
    diff: str = ""


def changes(plan: Plan, live: Iterable[Manifest]) -> tuple[Change, ...]:
    """What a Plan would do to objects. Its words in the status and in Events are no changes of anything that runs."""
    known = {Ref.of(manifest): manifest for manifest in live}
    writes = [action for action in plan.actions if not isinstance(action, PatchStatus | EmitEvent)]
    return tuple(_change(action, known) for action in writes)


def _change(action: Write, known: Mapping[Ref, Manifest]) -> Change:
    if isinstance(action, Apply):
        before = known.get(action.ref) if action.uid else None
        why = f"{action.why}{_exchange(before, action.manifest)}"
        return Change("change" if before else "create", str(action.ref), why, diff(before, action.manifest))
    if isinstance(action, Delete):
        return Change("delete", str(action.ref), action.why)
    about = str(action.ref)
    verb, _, rest = str(action).partition(f" {about}")
    return Change(verb.split(" ")[0], about, rest.lstrip(": "))


def _exchange(before: Manifest | None, after: Manifest) -> str:
    """What another pod template means for the replicas."""
    old, new = _revision(before or {}), _revision(after)
    if not old or not new or old == new:
        return ""
    return f"; every replica is exchanged, revision {old} for {new}"


def _revision(manifest: Manifest) -> str:
    template = manifest.get("spec", {}).get("template", {})
    return str((template.get("metadata", {}).get("labels") or {}).get(LABEL_REVISION, ""))


def diff(before: Manifest | None, after: Manifest) -> str:
    """Unified diff of the fields that `after` names, as YAML."""
    name = str(Ref.of(after))
    old = [] if before is None else _lines(project(before, after))
    found = difflib.unified_diff(
        old, _lines(after), f"{name} (now)" if old else "/dev/null", f"{name} (then)", lineterm=""
    )
    return "\n".join(found)


def _lines(manifest: Manifest) -> list[str]:
    metadata = dict(manifest["metadata"])
    notes = {key: text for key, text in (metadata.get("annotations") or {}).items() if key != ANNOTATION_APPLIED}
    metadata["annotations"] = notes  # the hash of what was applied last says nothing to a person
    if not notes:
        del metadata["annotations"]
    return yaml.safe_dump({**manifest, "metadata": metadata}, sort_keys=True, width=10_000).splitlines()


def project(live: Any, wanted: Any) -> Any:
    """The part of `live` that `wanted` speaks of; where both mean the same, in the words of `wanted`."""
    if covers(live, wanted):
        return wanted
    if isinstance(live, dict) and isinstance(wanted, dict):
        return {key: project(live[key], item) for key, item in wanted.items() if key in live}
    if isinstance(live, list) and isinstance(wanted, list):
        return _project_list(live, wanted)
    return live


def _project_list(live: list[Any], wanted: list[Any]) -> list[Any]:
    both = [*live, *wanted]
    if not all(isinstance(item, dict) for item in both):
        return live
    key = next((name for name in _ITEM_KEYS if all(name in item for item in both)), None)
    if key is None:
        return live
    meant = {item[key]: item for item in wanted}
    return [project(item, meant[item[key]]) if item[key] in meant else item for item in live]
