"""Which class a request asks for, and whether its key may.

Knows one header. What the classes mean is fair_queue's.
"""

from collections.abc import Iterable
from typing import Final

from ryzanstein_gateway.auth import Principal
from ryzanstein_gateway.errors import BAD_PRIORITY, PRIORITY_NOT_ALLOWED, Refused
from ryzanstein_gateway.fair_queue import Priority
from ryzanstein_worker.contract import HEADER_PRIORITY

_HEADER: Final = HEADER_PRIORITY.encode()
_WORDS: Final = {b"high": Priority.HIGH, b"normal": Priority.NORMAL, b"low": Priority.LOW}


def priority_of(headers: Iterable[tuple[bytes, bytes]], principal: Principal, high: frozenset[str]) -> Priority:
    """The class that a request asks for; normal where it does not. Raises Refused: no such class, or not for this key.

    High is for the keys of those sets that the installation names, so that nobody can put himself first. Anybody may
    give way.
    """
    given = [value for name, value in headers if name == _HEADER]
    if not given:
        return Priority.NORMAL
    priority = _WORDS.get(given[0].strip().lower()) if len(given) == 1 else None
    if priority is None:
        raise Refused(BAD_PRIORITY)
    if priority is Priority.HIGH and not (principal.key_sets or frozenset()) & high:
        raise Refused(PRIORITY_NOT_ALLOWED)
    return priority
