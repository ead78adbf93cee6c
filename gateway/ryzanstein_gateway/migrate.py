"""What is to be done when a replica does not bring a request to its end, and what the next one is told.

Pure: how an attempt ended goes in, a decision or a body comes out. Knows the contract's resume; sends nothing.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from ryzanstein_gateway.journal import Choice, Journal
from ryzanstein_gateway.strikes import MOST_STRIKES

MAX_MIGRATIONS: Final = 5
PROGRESS_TOKENS: Final = 8
"""A replica that delivered so many has shown that it is not the request that kills replicas at once."""


class Ending(StrEnum):
    """How one attempt to have a request answered ended."""

    ANSWERED = "answered"
    """All of the reply was passed on, whatever it said."""
    REFUSED = "refused"
    """No connection: certainly not started."""
    DRAINING = "draining"
    """The replica says that it has not started and takes nothing more."""
    OVERLOADED = "overloaded"
    """The replica says that it has not started and has too much to do."""
    UNFIT = "unfit"
    """The replica does not take what another has begun."""
    QUARANTINED = "quarantined"
    """The replica refuses to go on: it knows of crashes with this request that the gateway has not seen."""
    CRASH = "crash"
    """The connection broke, or the replica says that its engine is gone."""
    DRAIN = "drain"
    """The replica's time to drain is over."""
    HANG = "hang"
    """The replica showed no sign of life for too long."""

    @property
    def lost(self) -> bool:
        """Whether the replica had the request and did not bring it to its end."""
        return self in (Ending.CRASH, Ending.DRAIN, Ending.HANG)


class Step(StrEnum):
    """What to do after a loss."""

    MIGRATE = "migrate"
    QUARANTINE = "quarantine"
    """The request is the likely cause: never send it again."""
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True)
class Losses:
    """How often a request has lost its replica."""

    migrations: int = 0
    strikes: int = 0

    def strikes_for(self, ending: Ending, progress: int) -> bool:
        """Whether a loss speaks against the request: `progress` is the tokens that this replica had delivered.

        A drain never does. The first crash always does; a later one does not where the request ran well in between.
        """
        return ending in (Ending.CRASH, Ending.HANG) and (self.strikes == 0 or progress < PROGRESS_TOKENS)

    def after(self, ending: Ending, progress: int) -> tuple["Losses", Step]:
        """The count after one more loss, and what to do."""
        strikes = self.strikes + self.strikes_for(ending, progress)
        if strikes >= MOST_STRIKES and strikes > self.strikes:
            return Losses(self.migrations, strikes), Step.QUARANTINE
        if self.migrations >= MAX_MIGRATIONS:
            return Losses(self.migrations, strikes), Step.GIVE_UP
        return Losses(self.migrations + 1, strikes), Step.MIGRATE


class _Asked(msgspec.Struct):
    """As much of a client's body as says how many choices its answer has."""

    n: int | None = None
    prompt: Any = None


class _ResumedChoice(msgspec.Struct):
    token_ids: list[int]
    num_cached: int


class _Resume(msgspec.Struct):
    id: str
    created: int
    seed: int
    choices: list[_ResumedChoice]


def num_choices(body: bytes) -> int:
    """How many choices the answer to a body has: `n` for each prompt. The body is one that a worker took."""
    asked = msgspec.json.decode(body, type=_Asked)
    several = isinstance(asked.prompt, list) and asked.prompt and not isinstance(asked.prompt[0], int)
    return (asked.n or 1) * (len(asked.prompt) if several else 1)


def resume_body(body: bytes, journal: Journal) -> bytes:
    """What lets another replica go on: the client's body byte for byte, and all that was delivered."""
    choices = [journal.choices.get(index, Choice()) for index in range(num_choices(body))]
    resume = _Resume(
        id=journal.id,
        created=journal.created,
        seed=journal.seed,
        choices=[_ResumedChoice(choice.token_ids.tolist(), choice.num_cached) for choice in choices],
    )
    return b'{"request":%b,"resume":%b}' % (body, msgspec.json.encode(resume))
