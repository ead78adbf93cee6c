"""The gateway's HTTP application: plain ASGI, a route table, one way in.

Every request passes the key check before anything else is looked at; the page's files alone need no key. Knows the
API's paths and the order of steps; the steps themselves live in auth, limits and pipeline.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from ryzanstein_gateway.auth import ANYONE, Principal, authenticate
from ryzanstein_gateway.deadline import Deadlines
from ryzanstein_gateway.errors import (
    INTERNAL,
    METHOD_NOT_ALLOWED,
    SHUTTING_DOWN,
    UNKNOWN_URL,
    UPGRADE_REQUIRED,
    Refusal,
    Refused,
)
from ryzanstein_gateway.exchange import Exchange, Receive, Reply, Scope, Send
from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.limits import ClientGone, check_content_type, check_length, read_body
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.page import HEADERS, STATE, Files
from ryzanstein_gateway.page_state import PageState
from ryzanstein_gateway.pipeline import Pipeline, read_generation
from ryzanstein_gateway.protocol import ABORT, GONE, Watch
from ryzanstein_gateway.realtime import Realtime
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.settings import Settings
from ryzanstein_worker.contract import CHAT_COMPLETIONS, COMPLETIONS, MODELS, REALTIME

CLIENT_CLOSED: Final = 499
"""nginx's status for the log: the client left before the reply was whole."""

_log = logging.getLogger(__name__)


class Call(msgspec.Struct, frozen=True):
    """One authenticated request on its way through a handler."""

    principal: Principal
    exchange: Exchange
    reply: Reply
    receive: Receive
    watch: Watch


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the route table. A prefix rule takes every longer path as well."""

    method: str
    path: str
    handler: Callable[["App", Call], Awaitable[None]]
    prefix: bool = False

    def matches(self, path: str) -> bool:
        """Whether the path is this rule's, whatever the method."""
        return path == self.path or (self.prefix and path.startswith(self.path) and path != self.path)


class App:
    """The ASGI application."""

    def __init__(
        self,
        fleet: Fleet,
        pipeline: Pipeline,
        metrics: Metrics,
        settings: Settings,
        *,
        page: PageState,
        digests: Callable[[], Mapping[str, frozenset[str]]],
        draining: Callable[[], bool],
    ) -> None:
        self._fleet = fleet
        self._pipeline = pipeline
        self._metrics = metrics
        self._settings = settings
        self._page = page
        self._files = Files()
        self._digests = digests
        self._draining = draining
        self._bodies = Deadlines(settings.body_timeout_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens, with OpenAI's error shape, one access line and one count."""
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        exchange = Exchange.begin(scope)
        reply = Reply(exchange, scope, send, closing=self._draining())
        try:
            await self._answer(exchange, reply, receive, scope["extensions"][GONE]["watch"])
        except Refused as refused:
            await reply.refuse(refused.refusal)
        except ClientGone:
            exchange.status, exchange.outcome = CLIENT_CLOSED, "client_closed"
        except asyncio.CancelledError:  # the gateway's time to drain is over
            if reply.started:
                raise
            await reply.refuse(SHUTTING_DOWN)
        except Exception:
            _log.exception("request %s failed", exchange.request_id, extra=exchange.ids())
            await (reply.cut(INTERNAL, event_stream=False) if reply.started else reply.refuse(INTERNAL))
        finally:
            # Not now: what was written goes out when this turn of the event loop ends, and should not wait for a log.
            asyncio.get_running_loop().call_soon(self._pipeline.account, exchange)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket's handshake: refused like any request, or answered for as long as it lasts."""
        exchange = Exchange.begin(scope)
        refusing = Reply(exchange, scope, _as_handshake(send), closing=False)
        hang_up = scope["extensions"][ABORT]["close"]
        try:
            principal = self._authenticate(exchange)
            if exchange.path not in SOCKETS:
                raise Refused(UNKNOWN_URL)
            exchange.status = 101
            socket = Realtime(self._pipeline, self._settings, principal, exchange, receive, send, hang_up)
            with self._metrics.sockets.track_inprogress():
                await socket.run()
        except Refused as refused:
            await refusing.refuse(refused.refusal)
        finally:
            self._pipeline.account(exchange)

    async def _answer(self, exchange: Exchange, reply: Reply, receive: Receive, watch: Watch) -> None:
        if exchange.method == "GET" and self._files.holds(exchange.path):
            await self._files.send(exchange.path, reply)
            return
        principal = self._authenticate(exchange)
        exchange.key_id = principal.key_id
        rule = _EXACT.get((exchange.method, exchange.path)) or _rule_of(exchange.method, exchange.path)
        await rule.handler(self, Call(principal, exchange, reply, receive, watch))

    def _authenticate(self, exchange: Exchange) -> Principal:
        if not self._settings.auth_required:
            return ANYONE
        try:
            return authenticate(exchange.headers, self._digests())
        except Refused:
            self._metrics.auth_failures.inc()
            raise

    async def complete(self, call: Call) -> None:
        """POST of a completion or chat completion: find the model, forward."""
        exchange = call.exchange
        check_content_type(exchange.headers)
        check_length(exchange.headers, self._settings.max_body_bytes)
        body = await read_body(call.receive, max_bytes=self._settings.max_body_bytes, limit=self._bodies.limit())
        generation = read_generation(exchange.path, body, call.principal)
        await while_client_stays(call.watch, call.reply, self._pipeline.run(generation, exchange, call.reply))

    def models(self, principal: Principal) -> dict[str, Any]:
        """OpenAI's list of the models that a principal may use."""
        models = [_model_object(route) for route in self._fleet.table.visible(principal.key_sets)]
        return {"object": "list", "data": models}

    async def list_models(self, call: Call) -> None:
        """GET of every model that the key may use."""
        await call.reply.json(200, msgspec.json.encode(self.models(call.principal)))

    async def show(self, call: Call) -> None:
        """GET of what the built-in page shows."""
        body = await self._page.answer(call.principal.key_sets)
        await call.reply.json(200, body, ((b"cache-control", b"no-store"), *HEADERS))

    async def refuse_plain(self, call: Call) -> None:
        """Where a WebSocket is expected and none is asked for."""
        raise Refused(UPGRADE_REQUIRED)

    async def get_model(self, call: Call) -> None:
        """GET of one model; its name may hold slashes."""
        route = self._pipeline.find(call.exchange.path.removeprefix(MODELS + "/"), call.principal)
        await call.reply.json(200, msgspec.json.encode(_model_object(route)))


RULES: Final = (
    Rule("POST", COMPLETIONS, App.complete),
    Rule("POST", CHAT_COMPLETIONS, App.complete),
    Rule("GET", REALTIME, App.refuse_plain),
    Rule("GET", STATE, App.show),
    Rule("GET", MODELS, App.list_models),
    Rule("GET", MODELS + "/", App.get_model, prefix=True),
)
"""All that the API port answers. A path that is not here is a 404, and only to a valid key."""
_EXACT: Final = {(rule.method, rule.path): rule for rule in RULES if not rule.prefix}
SOCKETS: Final = frozenset({REALTIME})
"""The paths of WebSockets."""


async def while_client_stays(watch: Watch, reply: Reply, work: Awaitable[None]) -> None:
    """Do the work; the moment the client leaves while its reply is not whole, cancel it.

    Raises ClientGone then, and what the work raises.
    """
    worker = asyncio.current_task()
    assert worker is not None
    gone = False

    def leave() -> None:
        nonlocal gone
        if not reply.ended:
            gone = True
            worker.cancel()

    watch(leave)
    try:
        await work
    except asyncio.CancelledError:
        if not gone:
            raise
        worker.uncancel()
        raise ClientGone from None
    finally:
        watch(None)


def _as_handshake(send: Send) -> Send:
    """Sends a response in place of a WebSocket's acceptance."""

    async def send_response(message: MutableMapping[str, Any]) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return send_response


def _rule_of(method: str, path: str) -> Rule:
    at_path = [rule for rule in RULES if rule.matches(path)]
    if not at_path:
        raise Refused(UNKNOWN_URL)
    rule = next((rule for rule in at_path if rule.method == method), None)
    if rule is None:
        raise Refused(_allow(METHOD_NOT_ALLOWED, at_path))
    return rule


def _allow(refusal: Refusal, rules: list[Rule]) -> Refusal:
    allowed = ", ".join(rule.method for rule in rules).encode()
    return replace(refusal, headers=((b"allow", allowed),))


def _model_object(route: Route) -> dict[str, object]:
    # `created` is required by OpenAI's schema; the table does not carry it, and replicas of the gateway must agree.
    shape: dict[str, object] = {"id": route.model, "object": "model", "created": 0, "owned_by": "ryzanstein"}
    return shape | ({} if route.max_model_len is None else {"max_model_len": route.max_model_len})
