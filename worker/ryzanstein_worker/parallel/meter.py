"""Who is told how long a rank was inside a collective. Knows names and nanoseconds."""

from typing import Final, Literal, Protocol

Collective = Literal["all_reduce", "gather", "broadcast"]

COLLECTIVES: Final[tuple[Collective, ...]] = ("all_reduce", "gather", "broadcast")


class Meter(Protocol):
    """Called by the rank's thread at each collective's end, so it must be cheap and must not raise."""

    def collective(self, name: Collective, nanoseconds: int) -> None: ...


class NoMeter:
    """For who does not ask."""

    def collective(self, name: Collective, nanoseconds: int) -> None:
        """Nothing."""


NO_METER: Final = NoMeter()
