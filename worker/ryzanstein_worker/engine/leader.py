"""Rank 0's loop: takes requests from the parent, tells the other ranks, runs steps, reports tokens.

One frame a step goes to each other rank: the last step's outcome, the raw adds and aborts, and the hash of the
scheduler's state after them. No other word is needed, because every scheduler is deterministic.
"""

import logging
import time
from collections.abc import Callable

from ryzanstein_worker.engine.frames import FromParent, FromRank, Outcome, StepFrame, StepReport
from ryzanstein_worker.engine.heartbeat import RankState
from ryzanstein_worker.engine.inbox import Inbox
from ryzanstein_worker.engine.ledger import Account, Phase
from ryzanstein_worker.engine.replica import Replica
from ryzanstein_worker.engine.request import Abort, AddRequest, TokenLogprobs, TokenOutput
from ryzanstein_worker.engine.sequence import Progress, Step
from ryzanstein_worker.engine.status import EngineStats
from ryzanstein_worker.engine.steps import StepLog
from ryzanstein_worker.parallel.messages import Channel

logger = logging.getLogger(__name__)

_TOKENS_A_FRAME = 2**20  # adds beyond this many known tokens wait for the next step, which bounds a frame


class Leader:
    """`beat` is called with what comes next, at least every `tick` seconds while idle; `tell_load` with running and
    waiting requests and the share of KV blocks in use, before and after each step; `account` learns of each step."""

    def __init__(
        self,
        replica: Replica,
        *,
        epoch: str,
        inbox: Inbox[FromParent],
        parent: Channel[FromRank, FromParent],
        peers: list[Channel[StepFrame, StepFrame]],
        beat: Callable[[RankState], None],
        tell_load: Callable[[int, int, float], None],
        account: Account,
        tick: float,
    ) -> None:
        self._replica = replica
        self._epoch = epoch
        self._tell_load = tell_load
        self._account = account
        self._inbox = inbox
        self._parent = parent
        self._peers = peers
        self._beat = beat
        self._tick = tick
        self._sequence = 0
        self._untold: Outcome | None = None  # the last step's outcome, until the other ranks know it
        self._first_scheduled: dict[int, float] = {}
        self._steps = 0
        self._log = StepLog()

    def run(self) -> None:
        """Until the parent closes its end. Raises PeerLostError, ChannelClosedError when another rank has gone."""
        while True:
            idle = not self._replica.scheduler.has_work and self._untold is None
            self._beat(RankState.IDLE if idle else RankState.STEP)
            commands = self._inbox.take(timeout=self._tick if idle else 0.0, enough=_is_enough)
            if commands is None:
                return
            if commands or not idle:
                self._turn(commands)

    def _turn(self, commands: list[FromParent]) -> None:
        aborts = [command.request_id for command in commands if isinstance(command, Abort)]
        adds = [command for command in commands if isinstance(command, AddRequest)]
        # A request that is added and aborted in one turn must be known before it is forgotten.
        late = {request.request_id for request in adds} & set(aborts)
        adds = [request for request in adds if request.request_id not in late]
        for request in adds:
            if request.traced:
                self._log.expect(request.request_id)
        outputs = [TokenOutput(request_id=name, token_ids=[], finish_reason="abort") for name in sorted(late)]
        outputs += [self._output(progress) for progress in self._replica.change(aborts, adds)]
        self._tell(aborts, adds)
        step = self._replica.scheduler.schedule()
        if step is not None:
            self._publish_load()
            outputs += self._step(step)
        self._publish_load()
        self._parent.send(StepReport(outputs=outputs, stats=self._stats()))

    def _publish_load(self) -> None:
        scheduler = self._replica.scheduler
        self._tell_load(len(scheduler.running), len(scheduler.waiting), scheduler.kv_cache_usage)

    def _tell(self, aborts: list[str], adds: list[AddRequest]) -> None:
        frame = StepFrame(
            epoch=self._epoch,
            sequence=self._sequence,
            outcome=self._untold,
            aborts=aborts,
            adds=adds,
            state_hash=self._replica.scheduler.state_hash,
        )
        self._sequence += 1
        self._untold = None
        for peer in self._peers:
            peer.send(frame)

    def _step(self, step: Step) -> list[TokenOutput]:
        began = time.monotonic_ns()
        decodes = tokens = 0
        for part in step.slices:
            tokens += part.count
            if part.sequence.num_new == 0:
                self._first_scheduled.setdefault(part.sequence.number, began / 1e9)
            elif part.count == 1:
                decodes += 1
        outcome, sampled = self._replica.run(step)
        self._note(step, decodes, tokens, began)
        self._untold = outcome
        progress = self._replica.book(step, outcome)
        if outcome.failed is not None:
            return [self._output(item) for item in progress]
        return [self._output(item, of.logprobs) for item, of in zip(progress, sampled, strict=True)]

    def _note(self, step: Step, decodes: int, tokens: int, began: int) -> None:
        """`decodes`: how many parts are one token that follows on a generated one; what else there is, is prefill."""
        took = time.monotonic_ns() - began
        phase: Phase = "prefill" if decodes == 0 else "decode" if decodes == len(step.slices) else "mixed"
        self._steps += 1
        self._account.step(phase, took, tokens)
        self._log.note(step, self._steps, tokens, began / 1e9, took / 1e9)
        if logger.isEnabledFor(logging.DEBUG):
            about = {"step": self._steps, "phase": phase, "requests": len(step.slices), "tokens": tokens}
            logger.debug("a step was computed", extra={**about, "ms": round(took / 1e6, 3)})

    def _output(self, progress: Progress, logprobs: TokenLogprobs | None = None) -> TokenOutput:
        sequence = progress.sequence
        return TokenOutput(
            request_id=sequence.request.request_id,
            token_ids=[] if progress.token_id is None else [progress.token_id],
            logprobs=[logprobs] if logprobs is not None else None,
            finish_reason=progress.finish_reason,
            num_cached_tokens=sequence.num_cached_tokens or 0,
            error=progress.error,
            first_scheduled=self._first_scheduled.pop(sequence.number, None),
            steps=self._log.take(sequence.request.request_id, last=progress.finish_reason is not None),
        )

    def _stats(self) -> EngineStats:
        scheduler = self._replica.scheduler
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_cache_usage=scheduler.kv_cache_usage,
            kv_blocks_free=scheduler.pool.num_free,
            prefix_queries=scheduler.counters.prefix_queries,
            prefix_hits=scheduler.counters.prefix_hits,
            preemptions=scheduler.counters.preemptions,
            steps=scheduler.counters.steps,
        )


def _is_enough(commands: list[FromParent]) -> bool:
    adds = (command for command in commands if isinstance(command, AddRequest))
    return sum(len(add.prompt_token_ids) + len(add.output_token_ids) for add in adds) >= _TOKENS_A_FRAME
