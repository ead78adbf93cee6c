"""Rollouts behind the gateway and the end of the gateway itself: no request is lost to either."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_world import CLIENT_SECONDS, KEY, World, open_world, until, write_key
from kubewatch import kube_watch
from ports import free_port
from replica import Replica
from ryzanstein_worker.contract import EXIT_CONFIG, HEALTH_READY

ASK: dict[str, Any] = {"model": "demo", "messages": [], "stream": True}


async def test_a_rollout_under_eight_streaming_clients_fails_no_request(world: World) -> None:
    old = [await world.add_replica() for _ in range(2)]
    await world.route("demo")
    await world.endpoints("demo", old)
    done = asyncio.Event()
    counts = {"whole": 0}

    async def client() -> None:
        async with httpx.AsyncClient(
            base_url=world.client.base_url, headers=world.client.headers, timeout=CLIENT_SECONDS
        ) as http:
            while not done.is_set():
                reply = await http.post("/v1/chat/completions", json=ASK)
                assert reply.status_code == 200, reply.text
                assert reply.text.endswith("data: [DONE]\n\n"), reply.text
                counts["whole"] += 1

    clients = [asyncio.create_task(client()) for _ in range(8)]
    served = list(old)

    async def flow(number: int) -> None:
        goal = counts["whole"] + number
        await until(lambda: counts["whole"] >= goal or any(one.done() for one in clients), "requests flow", 20)

    for leaver in old:
        await flow(20)
        fresh = await world.add_replica()
        served = [*(one for one in served if one is not leaver), fresh]
        leaver.not_started = "draining"  # the pod knows first, the gateway learns it later
        await flow(20)
        await world.endpoints("demo", served, leaving=[leaver])
        await until(lambda one=leaver: not world.in_flight(one), "its streams have ended")  # type: ignore[misc]
        await leaver.stop()
        await flow(20)
        await world.endpoints("demo", served)
    await flow(20)
    done.set()
    await asyncio.gather(*clients)
    assert all(one.received for one in (*old, *served))
    assert await world.metric('ryzanstein_gateway_upstream_retries_total{reason="draining"}') > 0, (
        "nothing was put to the test"
    )


async def begun_stream(world: World) -> tuple[Replica, "asyncio.Task[bytes]"]:
    """A stream whose first token has been sent and whose next waits for a release."""
    one = await world.add_replica()
    await world.route("demo")
    await world.endpoints("demo", [one])
    one.step = asyncio.Semaphore(1)
    begun = asyncio.Event()

    async def read() -> bytes:
        got = b""
        async with world.client.stream("POST", "/v1/chat/completions", json=ASK) as reply:
            try:
                async for piece in reply.aiter_raw():
                    got += piece
                    begun.set()
            except httpx.RemoteProtocolError:
                got += b"<broken>"
        return got

    task = asyncio.create_task(read())
    async with asyncio.timeout(30):
        await begun.wait()
    return one, task


async def test_draining_is_not_ready_at_once_accepts_for_a_grace_and_lets_streams_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The grace is long enough for all that has to be seen in it, though the machine stands still meanwhile.
    async with open_world(tmp_path, monkeypatch, drain_grace_seconds=4, drain_seconds=30) as world:
        one, stream = await begun_stream(world)
        assert one.step is not None
        world.stop.set()
        await until(lambda: world.gateway.draining, "the drain has begun", 0.2)
        assert await world.probe(HEALTH_READY) == 503
        reply = await world.client.get("/v1/models")
        assert reply.status_code == 200
        assert reply.headers["connection"] == "close"
        await until(lambda: not _accepts(world.gateway.port), "no new connection is taken")
        assert not stream.done()
        for _ in range(one.tokens):
            one.step.release()
        assert (await stream).endswith(b"data: [DONE]\n\n")
        async with asyncio.timeout(20):
            await world.run


async def test_a_connection_that_was_promised_to_a_client_takes_one_more_request_while_the_gateway_drains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two, one is idle when the gateway closes, the other streams beyond that. New ones are refused by then."""
    async with (
        open_world(tmp_path, monkeypatch, drain_grace_seconds=4, drain_seconds=30) as world,
        httpx.AsyncClient(base_url=world.client.base_url, headers=world.client.headers) as idle,
    ):
        assert "connection" not in (await idle.get("/v1/models")).headers
        one, stream = await begun_stream(world)
        assert one.step is not None
        world.stop.set()
        await until(lambda: not _accepts(world.gateway.port), "no new connection is taken")
        for _ in range(one.tokens):
            one.step.release()
        assert (await stream).endswith(b"data: [DONE]\n\n")
        for client in (world.client, idle):
            reply = await client.get("/v1/models")
            assert (reply.status_code, reply.headers["connection"]) == (200, "close")
        async with asyncio.timeout(20):
            await world.run


async def test_a_drain_waits_for_an_idle_connection_no_longer_than_the_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch, drain_grace_seconds=0.5, drain_seconds=300) as world:
        await world.client.get("/v1/models")
        with socket.create_connection(("127.0.0.1", world.gateway.port)):  # says nothing at all
            world.stop.set()
            async with asyncio.timeout(30):
                await world.run


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_a_stream_that_outlasts_the_drain_ends_in_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch, drain_seconds=1) as world:
        _, stream = await begun_stream(world)
        world.stop.set()
        async with asyncio.timeout(30):
            got = await stream
            await world.run
        assert got.endswith(b"<broken>")
        error = json.loads(got.removesuffix(b"<broken>").strip().rsplit(b"data: ", 1)[1])["error"]
        assert error["code"] == "shutting_down"


async def test_a_request_that_still_waits_when_the_drain_is_over_is_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch, drain_seconds=1) as world:
        await world.route("demo")
        ask = asyncio.create_task(world.ask(**ASK))
        await until(lambda: world.gateway.admission.waiting("demo") == 1, "it waits")
        world.stop.set()
        reply = await ask
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "shutting_down")
        assert int(reply.headers["retry-after"]) > 0


async def test_the_process_drains_on_sigterm_exits_0_and_logs_no_content(tmp_path: Path) -> None:
    port, health, grpc_port, upstream = free_port(), free_port(), free_port(), free_port()
    write_key(tmp_path / "keys", "default", "key", KEY)
    async with kube_watch() as kube:
        kube.write_kubeconfig(tmp_path / "kubeconfig")
        environ = {name: value for name, value in os.environ.items() if name != "KUBERNETES_SERVICE_HOST"} | {
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "RYZANSTEIN_NAMESPACE": "ryzanstein",
            "RYZANSTEIN_KEYSETS_DIR": str(tmp_path / "keys"),
            "RYZANSTEIN_GATEWAY_HOST": "127.0.0.1",
            "RYZANSTEIN_GATEWAY_PORT": str(port),
            "RYZANSTEIN_GATEWAY_HEALTH_PORT": str(health),
            "RYZANSTEIN_GATEWAY_GRPC_PORT": str(grpc_port),
            "RYZANSTEIN_DRAIN_GRACE_SECONDS": "0.2",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ryzanstein_gateway", env=environ, stdout=asyncio.subprocess.PIPE
        )
        try:
            await asyncio.wait_for(_ready(health), 40)
            one = Replica("127.0.0.1", upstream)
            headers = {"authorization": f"Bearer {KEY}"}
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
                body = {"model": "demo", "prompt": "the secret prompt"}
                assert (await client.post("/v1/completions?q=hidden", json=body)).status_code == 404
            assert not one.received
            process.send_signal(signal.SIGTERM)
            output, _ = await asyncio.wait_for(process.communicate(), 30)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0
    lines = [json.loads(line) for line in output.splitlines()]
    access = [line for line in lines if line["logger"] == "ryzanstein_gateway.access"]
    assert [(line["status"], line["path"]) for line in access] == [(404, "/v1/completions")]
    assert access[0].keys() >= {"time", "level", "request_id", "method", "duration_ms", "outcome"}
    for secret in (b"secret prompt", b"hidden", KEY.encode()):
        assert secret not in output


async def _ready(port: int) -> None:
    async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
        while True:
            try:
                if (await client.get(f"http://127.0.0.1:{port}{HEALTH_READY}")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


async def test_a_wrong_setting_is_one_sentence_and_exit_78() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ryzanstein_gateway",
        env=os.environ | {"RYZANSTEIN_NAMESPACE": "x", "RYZANSTEIN_GATEWAY_AUTH": "maybe"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == EXIT_CONFIG
    assert said.decode() == "RYZANSTEIN_GATEWAY_AUTH must be one of required, none.\n"
