"""What is kept of a request when it has ended, in whatever way: its counts, its span, one line of the access log.

Knows an Exchange; changes nothing about how it went.
"""

import time
from typing import TYPE_CHECKING

from ryzanstein_gateway.exchange import Exchange
from ryzanstein_gateway.exemplars import Exemplars
from ryzanstein_gateway.logs import AccessEntry, log_access
from ryzanstein_gateway.metrics import DURATION, FIRST_BYTE, FIRST_TOKEN, Metrics
from ryzanstein_gateway.page import UI
from ryzanstein_gateway.recent import Recent

if TYPE_CHECKING:  # not loaded by a gateway that does not trace
    from ryzanstein_gateway.tracing import Tracing


class Account:
    """One for the process."""

    def __init__(self, metrics: Metrics, exemplars: Exemplars, tracing: "Tracing | None" = None) -> None:
        self._metrics, self._exemplars, self._tracing = metrics, exemplars, tracing
        self._recent: dict[str, Recent] = {}

    def recent(self, model: str, now: float) -> tuple[int, bytes]:
        """Of the last minute: recent.Recent.summary. `now` is of the monotonic clock. A model that had nothing is
        forgotten: models come and go."""
        known = self._recent.get(model)
        if known is None:
            return 0, b""
        found = known.summary(now)
        if not found[1]:
            del self._recent[model]
        return found

    def close(self, exchange: Exchange) -> None:
        """A request has ended."""
        now = time.perf_counter()
        self._metrics.requests.labels(exchange.model, str(exchange.status), exchange.protocol).inc()
        if exchange.path.startswith(UI) and exchange.status < 400:  # asked every two seconds: not worth a line
            return
        if self._tracing is not None:
            self._tracing.end(exchange)
        if exchange.model:
            self._count(exchange, now)
        log_access(_entry(exchange, now))

    def _count(self, exchange: Exchange, now: float) -> None:
        model, first_byte = exchange.model, None
        self._observe(DURATION, exchange, now - exchange.began)
        if exchange.first_byte is not None:
            first_byte = exchange.first_byte - exchange.began
            self._observe(FIRST_BYTE, exchange, first_byte)
        self._recent.setdefault(model, Recent()).observe(time.monotonic(), first_byte)
        if exchange.prompt_tokens:
            self._metrics.prompt_tokens.labels(model).inc(exchange.prompt_tokens)
        if exchange.completion_tokens:
            self._metrics.generation_tokens.labels(model).inc(exchange.completion_tokens)
        if exchange.first_token is not None:
            self._observe(FIRST_TOKEN, exchange, exchange.first_token - exchange.began)
            tokens = exchange.completion_tokens or 0
            if tokens > 1 and exchange.last_token is not None:
                pace = (exchange.last_token - exchange.first_token) / (tokens - 1)
                self._metrics.token_time.labels(model).observe(pace)

    def _observe(self, metric: str, exchange: Exchange, seconds: float) -> None:
        self._metrics.timed[metric].labels(exchange.model).observe(seconds)
        if exchange.trace.sampled:
            self._exemplars.note(metric, exchange.model, seconds, exchange.trace.id)


def _entry(exchange: Exchange, now: float) -> AccessEntry:
    first_byte = None if exchange.first_byte is None else round((exchange.first_byte - exchange.began) * 1000, 3)
    return AccessEntry(
        request_id=exchange.request_id,
        protocol=exchange.protocol,
        method=exchange.method,
        path=exchange.path[:256],
        status=exchange.status,
        duration_ms=round((now - exchange.began) * 1000, 3),
        model=exchange.model,
        key_id=exchange.key_id,
        endpoint=exchange.endpoint,
        tries=exchange.tries,
        migrations=exchange.migrations,
        prompt_tokens=exchange.prompt_tokens,
        completion_tokens=exchange.completion_tokens,
        queue_ms=round(exchange.queued * 1000, 3),
        first_byte_ms=first_byte,
        outcome=exchange.outcome,
        trace_id=exchange.trace.id,
    )
