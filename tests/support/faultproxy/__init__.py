"""A TLS reverse proxy between an operator and its API server that numbers the writes and breaks what it is told to."""

from faultproxy.calls import Call, Kind
from faultproxy.faults import Abort, Answer, Fault, Freeze, Kill, Rule, every, nth, on_write
from faultproxy.host import ProxyHost
from faultproxy.lines import Delayed, Dropped, Duplicated, Lines, Reordered
from faultproxy.proxy import FaultProxy

__all__ = [
    "Abort",
    "Answer",
    "Call",
    "Delayed",
    "Dropped",
    "Duplicated",
    "Fault",
    "FaultProxy",
    "Freeze",
    "Kill",
    "Kind",
    "Lines",
    "ProxyHost",
    "Reordered",
    "Rule",
    "every",
    "nth",
    "on_write",
]
