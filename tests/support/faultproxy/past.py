"""An API server that lags behind: lists as they were at a moment, and watches that tell nothing until it catches up."""

import asyncio
from collections.abc import Mapping

Place = tuple[str, frozenset[tuple[str, str]]]


def place_of(path: str, query: Mapping[str, str]) -> Place:
    """Which collection a list or watch is about: its path and selectors."""
    return path, frozenset((key, value) for key, value in query.items() if key.endswith("Selector"))


class Past:
    """Answers of lists, recorded at one moment. `caught_up` ends the lag: then everything is as it is."""

    def __init__(self) -> None:
        self.caught_up = asyncio.Event()
        self._lists: dict[Place, bytes] = {}

    def record(self, place: Place, answer: bytes) -> None:
        self._lists[place] = answer

    def answer(self, place: Place) -> bytes | None:
        """The old list, or None where there is none or the lag is over."""
        return None if self.caught_up.is_set() else self._lists.get(place)
