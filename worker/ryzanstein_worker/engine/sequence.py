"""A request while it runs, and the words in which the scheduler, the runner and the rank speak of a step.

Integers only, no torch. (`Sequence` is the field's word for it, and has nothing to do with collections.abc.)
"""

from dataclasses import dataclass, field

from ryzanstein_worker.engine.blocks import BlockHash
from ryzanstein_worker.engine.request import AddRequest, FinishReason


@dataclass(slots=True, eq=False)
class Sequence:
    """A request inside the engine: its tokens, its blocks, its progress. Owned by the scheduler."""

    request: AddRequest
    number: int  # in order of arrival
    token_ids: list[int]  # the prompt, then what was generated (what another engine generated first)
    hashes: list[BlockHash]  # root, then one for each full block known so far
    num_computed: int = 0  # tokens whose keys and values are stored
    block_ids: list[int] = field(default_factory=list)
    num_cached_tokens: int | None = None  # of the prompt, at the first admission
    num_published: int = 0  # blocks offered to the prefix cache

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_output(self) -> int:
        """Tokens generated, elsewhere or here."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_new(self) -> int:
        """Tokens generated here."""
        return self.num_output - len(self.request.output_token_ids)


@dataclass(frozen=True, slots=True)
class Slice:
    """`count` tokens of a sequence, from `start` on, computed in this step."""

    sequence: Sequence
    start: int
    count: int

    @property
    def samples(self) -> bool:
        """Whether the step yields this sequence's next token: no later token is known."""
        return self.start + self.count == len(self.sequence.token_ids)


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass: decodes first, then chunks of prefill. Never empty."""

    slices: tuple[Slice, ...]

    @property
    def sampling(self) -> list[Sequence]:
        """The sequences that get a token, in the step's order."""
        return [part.sequence for part in self.slices if part.samples]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a step, an abort or a refusal did to one request."""

    sequence: Sequence
    token_id: int | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None


@dataclass(slots=True)
class Counters:
    """Totals since the start, for metrics."""

    steps: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
