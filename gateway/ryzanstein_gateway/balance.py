"""Which replica takes the next request: fewest in flight, ties in turn.

Pure: ints and names in, a choice out. No clock, no I/O, nothing remembered between calls.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica. `host` is an IP address as it stands in a URL; `leaving`: it terminates but still answers."""

    host: str
    pod: str = ""
    leaving: bool = False


def choose(
    endpoints: Sequence[Endpoint],
    *,
    in_flight: Mapping[str, int],
    shunned: Container[str] = (),
    tried: Container[str] = (),
    turn: int = 0,
) -> Endpoint | None:
    """The endpoint with the fewest requests of this gateway in flight; None if there is none left to try.

    `in_flight` counts by host; `shunned` hosts have failed lately, `tried` ones have failed this very request;
    `turn` is any counter that grows, it breaks ties. A host that has failed lately is still tried when no other
    is left, and a leaving one after that: knowledge may be stale, and a refusal is sure to fail the request.
    """
    untried = [one for one in endpoints if one.host not in tried]
    steady = [one for one in untried if not one.leaving]
    sound = [one for one in steady if one.host not in shunned]
    candidates = sound or steady or untried
    if not candidates:
        return None
    least = min(in_flight.get(one.host, 0) for one in candidates)
    idlest = [one for one in candidates if in_flight.get(one.host, 0) == least]
    return idlest[turn % len(idlest)]
