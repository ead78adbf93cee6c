"""What Prometheus is told of a query: whether a user wrote it."""

import asyncio
from datetime import UTC, datetime

from operator_builders import ready_pod, service, settled
from ryzanstein_operator.cluster.cache import Key
from ryzanstein_operator.cluster.prometheus import Point, QueryError
from ryzanstein_operator.handlers.sampling import Sampling
from ryzanstein_operator.handlers.scaler import Scaler
from ryzanstein_operator.telemetry import Metrics


class Asked:
    """Answers nothing, and keeps what it was asked: whether the text is a user's, by the text's beginning."""

    def __init__(self) -> None:
        self.foreign: dict[str, bool] = {}
        self.both = asyncio.Event()

    async def query(self, text: str, *, foreign: bool = False) -> tuple[Point, ...]:
        self.foreign[text[:7]] = foreign
        if len(self.foreign) == 2:
            self.both.set()
        raise QueryError("failed", "no answer")


async def test_only_a_users_own_query_is_foreign() -> None:
    scaler = Scaler("release", lambda _: None)
    targets = [{"metric": "Query", "value": 5, "query": "heavy()"}, {"metric": "WaitingRequests", "value": 5}]
    live = service(autoscaling={"maxReplicas": 4, "targets": targets})
    scaler.visit(Key("team", "chat"), settled(live, ready_pod(live)), datetime(2026, 1, 2, tzinfo=UTC))

    async def wake(_: Key) -> None:
        """Nobody visits."""

    asked = Asked()
    sampling = asyncio.create_task(Sampling(asked, scaler, Metrics(), lambda: True, wake).run())
    async with asyncio.timeout(30):
        await asked.both.wait()
    sampling.cancel()
    await asyncio.wait([sampling])
    assert asked.foreign == {"heavy()": True, "label_r": False}
