"""What gateways have said of requests that wait, for as long as they go on saying it. Holds no more than there are
services and gateways; makes no call."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ryzanstein_operator.cluster.cache import Key
from ryzanstein_operator.decide.observed import Demand

MEMORY_SECONDS: Final = 10.0
"""A gateway says it anew each three seconds while requests wait; what is older is over."""
MOST_SENDERS: Final = 1024


@dataclass
class _Episode:
    """From the first word until all are silent: requests waiting and the time of each gateway's last word."""

    words: dict[str, tuple[int, float]] = field(default_factory=dict)
    spoken: bool = False


class Demands:
    """Use within one event loop. Any operator process keeps them, so that one that takes the lead knows at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._episodes: dict[Key, _Episode] = {}

    def tell(self, service: Key, sender: str, waiting: int) -> None:
        """`waiting` requests for `service` wait at the gateway process `sender`."""
        self._forget()
        words = self._episodes.setdefault(service, _Episode()).words
        if sender in words or len(words) < MOST_SENDERS:
            words[sender] = (waiting, self._clock())

    def of(self, service: Key) -> Demand | None:
        """What is known now; None where nobody waits."""
        self._forget()
        episode = self._episodes.get(service)
        if episode is None:
            return None
        return Demand(sum(waiting for waiting, _ in episode.words.values()), episode.spoken)

    def spoken(self, service: Key) -> None:
        """An Event has told of it."""
        if service in self._episodes:
            self._episodes[service].spoken = True

    def _forget(self) -> None:
        oldest = self._clock() - MEMORY_SECONDS
        for service, episode in list(self._episodes.items()):
            episode.words = {sender: word for sender, word in episode.words.items() if word[1] > oldest}
            if not episode.words:
                del self._episodes[service]
