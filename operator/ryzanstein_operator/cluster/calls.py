"""What a call to the API server was about, read from its path. Knows paths and the list of kinds; makes no call."""

from dataclasses import dataclass
from typing import Final

from ryzanstein_operator.cluster.client import Call
from ryzanstein_operator.cluster.resources import ALL

_KINDS: Final = {resource.path().lstrip("/"): resource.kind for resource in ALL}
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Subject:
    """verb: as Kubernetes names it in a Role. kind and name: empty where the call is about none, as in discovery."""

    verb: str
    kind: str
    namespace: str
    name: str
    subresource: str


def subject_of(call: Call) -> Subject:
    """/apis/GROUP/VERSION/namespaces/NAMESPACE/PLURAL/NAME/SUBRESOURCE, of which the last parts may be missing."""
    parts = call.path.strip("/").split("/")
    root, rest = parts[:2] if parts[0] == "api" else parts[:3], parts[2 if parts[0] == "api" else 3 :]
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "", "")[:3]
    kind = _KINDS.get("/".join((*root, plural)), "")
    listing = "list" if kind and not name else "get"
    return Subject(_VERBS.get(call.method, listing), kind, namespace, name, subresource)
