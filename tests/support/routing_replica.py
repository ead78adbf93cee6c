"""A replica in simulated time: places in a batch, a KV cache, a prefix cache, and a speed."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from routing_arrivals import PIECE_TOKENS, Arrival

PREFILL_SECONDS: Final = 0.25e-3
"""A prompt token that is not cached."""
DECODE_SECONDS: Final = 20e-3
"""A token of the answer."""


@dataclass
class Job:
    """A request on its way."""

    arrival: Arrival
    gateway: int
    replica: int
    wait: float = 0.0
    cached: int = 0
    first_byte: float = 0.0

    @property
    def tokens(self) -> int:
        """What it holds of the KV cache."""
        return len(self.arrival.pieces) * PIECE_TOKENS + self.arrival.output_tokens


@dataclass
class Replica:
    """`slowness` multiplies all that it computes; it takes jobs in turn, as long as a place and KV cache are free."""

    slowness: float = 1.0
    places: int = 16
    kv_tokens: int = 24_576
    cache_pieces: int = 400
    running: list[Job] = field(default_factory=list)
    waiting: deque[Job] = field(default_factory=deque)
    cache: OrderedDict[int, None] = field(default_factory=OrderedDict)
    used: int = 0

    @property
    def depth(self) -> int:
        """Requests there."""
        return len(self.running) + len(self.waiting)

    def startable(self) -> bool:
        """Whether the first that waits can start."""
        return (
            bool(self.waiting)
            and len(self.running) < self.places
            and (self.used + self.waiting[0].tokens <= self.kv_tokens or not self.running)
        )

    def start(self, now: float) -> tuple[Job, float]:
        """Start the first that waits; with it, when it ends."""
        job = self.waiting.popleft()
        pieces = job.arrival.pieces
        job.wait = now - job.arrival.at
        job.cached = next((index for index, piece in enumerate(pieces) if piece not in self.cache), len(pieces))
        prefill = (len(pieces) - job.cached) * PIECE_TOKENS * PREFILL_SECONDS * self.slowness
        job.first_byte = job.wait + prefill
        self.running.append(job)
        self.used += job.tokens
        for piece in reversed(pieces):
            self.cache[piece] = None
            self.cache.move_to_end(piece)
        while len(self.cache) > self.cache_pieces:
            self.cache.popitem(last=False)
        return job, now + prefill + job.arrival.output_tokens * DECODE_SECONDS * self.slowness

    def end(self, job: Job) -> None:
        """A job is done."""
        self.running.remove(job)
        self.used -= job.tokens
