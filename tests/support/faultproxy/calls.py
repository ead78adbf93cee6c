"""What an operator asks of the API server: each call with its kind, its number among the writes, what came of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """A call's kind. Lease and Event writes are told apart: they come by the clock, not by what a plan says."""

    READ = "read"
    LIST = "list"
    WATCH = "watch"
    WRITE = "write"
    LEASE = "lease"
    EVENT = "event"


@dataclass
class Call:
    """write: the number of this write since the proxy was armed, from 1; 0 for every other call. status: what the
    caller was answered, or 0 while it was answered nothing. note: which fault it met."""

    verb: str
    path: str
    query: Mapping[str, str]
    kind: Kind
    write: int = 0
    status: int = 0
    note: str = ""
    at: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        number = f"write {self.write}: " if self.write else ""
        return f"{self.at:.3f} {number}{self.verb} {self.path} -> {self.status or 'no answer'} {self.note}".rstrip()


def kind_of(verb: str, path: str, query: Mapping[str, str]) -> Kind:
    """What a call is for."""
    parts = path.strip("/").split("/")
    if verb == "GET":
        if query.get("watch") in ("true", "1"):
            return Kind.WATCH
        return Kind.LIST if _is_collection(parts) else Kind.READ
    if "leases" in parts:
        return Kind.LEASE
    return Kind.EVENT if "events" in parts else Kind.WRITE


def _is_collection(parts: list[str]) -> bool:
    """/api/v1/pods, /apis/apps/v1/deployments, or either below namespaces/NAME."""
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if rest[:1] == ["namespaces"] and len(rest) > 1:
        rest = rest[2:]
    return len(rest) == 1
