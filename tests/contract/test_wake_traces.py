"""A traced request that finds no replica is named to the operator, whose visit is then linked to it."""

import asyncio
from pathlib import Path

import pytest

from gateway_world import CLIENT_SECONDS, open_world
from otlp import collector
from ryzanstein_operator.doorbell import Doorbell, Heard, Word
from ryzanstein_operator.gateway_view import GatewayView

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("sampled", [True, False])
async def test_the_operator_is_told_which_trace_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampled: bool
) -> None:
    key_file, heard = tmp_path / "key", list[Word]()
    key_file.write_text("a-shared-key")

    def hear(word: Word) -> Heard:
        heard.append(word)
        return Heard.LEADING

    def hear_view(_: GatewayView) -> Heard:
        return Heard.LEADING

    with collector() as kept, Doorbell(hear, hear_view, key_file, "127.0.0.1", 0) as bell:
        for name, value in kept.environment.items():
            monkeypatch.setenv(name, value)
        url = f"http://127.0.0.1:{bell.port}"
        asked = open_world(tmp_path, monkeypatch, traces=True, operator_url=url, operator_key_file=key_file)
        async with asked as world:
            await world.route("demo", queueTimeoutSeconds=1)
            await world.endpoints("demo", [])
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-0{int(sampled)}"}
            reply = await world.client.post("/v1/chat/completions", json=BODY, headers=headers)
            assert reply.status_code == 503
            async with asyncio.timeout(CLIENT_SECONDS):
                while not heard:
                    await asyncio.sleep(0.02)
        if sampled:
            (server,) = [span for span in await asyncio.to_thread(kept.wait, 2) if span.name == "chat demo"]
            assert heard[0].traceparent == f"00-{TRACE}-{server.span_id}-01"
        else:
            assert heard[0].traceparent == ""
