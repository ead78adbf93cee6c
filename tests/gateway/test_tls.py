"""TLS at the gateway: certificates change under load and no request fails; a broken one changes nothing."""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from websockets.asyncio.client import connect

from certificates import Authority, mount, serial_of
from gateway_process import gateway_process
from gateway_world import KEY, World, open_world, until
from ryzanstein_gateway.settings import SettingsError, read_settings
from ryzanstein_gateway.tls import BrokenPairError, Certificate, Pair, certificate_of, new_context, read_pair
from ryzanstein_worker.contract import REALTIME

pytestmark = pytest.mark.slow

ASK: dict[str, Any] = {"model": "demo", "messages": [], "stream": True}
AUTHORITY = Authority()


def secure_client(world: World) -> httpx.AsyncClient:
    """A client that checks the gateway's certificate."""
    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{world.gateway.port}",
        headers={"authorization": f"Bearer {KEY}"},
        verify=AUTHORITY.client_context(),
        timeout=10,
    )


async def shown_serial(port: int, context: ssl.SSLContext | None = None) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = context or AUTHORITY.client_context()
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    shown = tls.getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


async def until_shown(port: int, serial: int) -> None:
    """Wait until new connections are shown this certificate."""
    async with asyncio.timeout(20):
        while await shown_serial(port) != serial:
            await asyncio.sleep(0.02)


async def test_certificates_change_under_load_and_no_request_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ryzanstein_gateway.tls.POLL_SECONDS", 0.05)
    caplog.set_level(logging.INFO, "ryzanstein_gateway.tls")
    first = AUTHORITY.pair()
    chain, key = mount(tmp_path / "tls", first)
    async with open_world(tmp_path, monkeypatch, tls_cert_file=chain, tls_key_file=key) as world:
        one = await world.add_replica()
        await world.route("demo")
        await world.endpoints("demo", [one])
        port = world.gateway.port
        assert await shown_serial(port) == serial_of(first[0])
        done = asyncio.Event()
        whole = 0

        async def load(fresh: bool) -> None:
            """Requests without a pause, each over a new connection or all over one."""
            nonlocal whole
            kept = secure_client(world)
            while not done.is_set():
                client = secure_client(world) if fresh else kept
                reply = await client.post("/v1/chat/completions", json=ASK)
                assert reply.status_code == 200
                assert reply.text.endswith("data: [DONE]\n\n")
                whole += 1
                if fresh:
                    await client.aclose()
            await kept.aclose()

        clients = [asyncio.create_task(load(fresh)) for fresh in (True, True, False, False)]
        for number in range(3):
            pair = AUTHORITY.pair()
            mount(tmp_path / "tls", pair)
            await until_shown(port, serial_of(pair[0]))
            if number == 1:
                mount(tmp_path / "tls", (AUTHORITY.pair()[0], pair[1]))  # a key that is not the certificate's
                await until(lambda: "before stays in force" in caplog.text, "it is said", 20)
                assert await shown_serial(port) == serial_of(pair[0]), "the one of before stays"
            goal = whole + 10
            async with asyncio.timeout(20):
                while whole < goal and not any(one.done() for one in clients):
                    await asyncio.sleep(0.01)
        done.set()
        await asyncio.gather(*clients)


async def test_websocket_and_grpc_speak_tls_with_the_same_certificate_and_take_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ryzanstein_gateway.tls.POLL_SECONDS", 0.05)
    chain, key = mount(tmp_path / "tls", AUTHORITY.pair())
    bearer = {"authorization": f"Bearer {KEY}"}

    async def check(channel: grpc.aio.Channel) -> int:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        return int(answer.status)

    def channel_of(world: World, authority: Authority) -> grpc.aio.Channel:
        trusted = grpc.ssl_channel_credentials(authority.pem)
        # Each with a connection of its own.
        return grpc.aio.secure_channel(
            f"127.0.0.1:{world.gateway.grpc_port}", trusted, (("grpc.use_local_subchannel_pool", 1),)
        )

    async def greet(world: World, authority: Authority) -> None:
        url = f"wss://127.0.0.1:{world.gateway.port}{REALTIME}"
        async with connect(url, ssl=authority.client_context(), additional_headers=bearer) as socket:
            await socket.send('{"type": "cancel", "id": "nothing"}')

    async with open_world(tmp_path, monkeypatch, tls_cert_file=chain, tls_key_file=key) as world:
        await greet(world, AUTHORITY)
        async with channel_of(world, AUTHORITY) as before:
            assert await check(before) == health_pb2.HealthCheckResponse.SERVING
            other = Authority()
            pair = other.pair()
            mount(tmp_path / "tls", pair)
            await until(lambda: world.gateway._certificate.pair == Pair(*pair), "it is taken", 20)  # type: ignore[union-attr]
            await greet(world, other)
            async with channel_of(world, other) as after:
                assert await check(after) == health_pb2.HealthCheckResponse.SERVING
            assert await check(before) == health_pb2.HealthCheckResponse.SERVING, "what was open goes on"
            async with channel_of(world, AUTHORITY) as late:
                with pytest.raises(grpc.aio.AioRpcError):
                    await check(late)


async def test_plain_http_and_old_tls_are_refused_and_probes_stay_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = mount(tmp_path / "tls", AUTHORITY.pair())
    async with open_world(tmp_path, monkeypatch, tls_cert_file=chain, tls_key_file=key) as world:
        with pytest.raises(httpx.TransportError):
            await world.client.get("/v1/models")
        old = AUTHORITY.client_context()
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await shown_serial(world.gateway.port, old)
        assert await world.probe("/health/ready") == 200
        async with secure_client(world) as client:
            assert (await client.get("/v1/models")).status_code == 200


async def test_a_handshake_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = mount(tmp_path / "tls", AUTHORITY.pair())
    async with open_world(
        tmp_path, monkeypatch, tls_cert_file=chain, tls_key_file=key, head_timeout_seconds=0.3
    ) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
        async with asyncio.timeout(20):
            assert await reader.read() == b"", "closed from the other side"
        writer.close()


async def test_every_process_of_a_gateway_takes_the_new_certificate(tmp_path: Path) -> None:
    chain, key = mount(tmp_path / "tls", AUTHORITY.pair())
    environ: dict[str, Any] = {
        "RYZANSTEIN_GATEWAY_TLS_CERT_FILE": str(chain),
        "RYZANSTEIN_GATEWAY_TLS_KEY_FILE": str(key),
    }
    async with gateway_process(tmp_path, RYZANSTEIN_GATEWAY_PROCESSES="2", **environ) as gateway:
        await gateway.until_metric("ryzanstein_gateway_processes_ready", 2)
        pair = AUTHORITY.pair()
        mount(tmp_path / "tls", pair)
        await until_shown(gateway.port, serial_of(pair[0]))
        taken = "a new TLS certificate is in force"
        await until(
            lambda: {one["process"] for one in gateway.records if one["message"] == taken} == {0, 1}, "both", 20
        )
        assert {await shown_serial(gateway.port) for _ in range(12)} == {serial_of(pair[0])}
        async with gateway.client(scheme="https", verify=AUTHORITY.client_context()) as client:
            assert (await client.get("/v1/models")).status_code == 200


def swapped() -> tuple[bytes, bytes]:
    """A certificate with another's key."""
    return AUTHORITY.pair()[0], AUTHORITY.pair()[1]


@pytest.mark.parametrize(
    "pair",
    [swapped(), (b"", b""), (b"no certificate", AUTHORITY.pair()[1]), AUTHORITY.pair(password=b"secret")],
    ids=["another's key", "empty", "no certificate", "a locked key"],
)
def test_what_is_no_pair_is_refused_in_words_that_hold_no_key(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(BrokenPairError, match="do not fit") as error:
        new_context(Pair(*pair))
    assert "PRIVATE" not in str(error.value)
    assert "PRIVATE" not in repr(Pair(*pair))


def test_files_that_vanish_and_come_back_broken_change_nothing(tmp_path: Path) -> None:
    chain, key = mount(tmp_path, AUTHORITY.pair())
    certificate = Certificate(chain, key)
    before = certificate.pair
    (tmp_path / "..data").unlink()
    certificate.refresh()
    mount(tmp_path, swapped())
    certificate.refresh()
    assert certificate.pair == before
    good = AUTHORITY.pair()
    mount(tmp_path, good)
    certificate.refresh()
    assert certificate.pair == read_pair(chain, key) == Pair(*good)


def test_a_gateway_does_not_start_without_the_certificate_it_was_told_to_use(tmp_path: Path) -> None:
    base = {"RYZANSTEIN_NAMESPACE": "rz", "RYZANSTEIN_GATEWAY_TLS_CERT_FILE": str(tmp_path / "none")}
    with pytest.raises(SettingsError, match="go together"):
        read_settings(base)
    settings = read_settings(base | {"RYZANSTEIN_GATEWAY_TLS_KEY_FILE": str(tmp_path / "none")})
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        certificate_of(settings)
    assert certificate_of(read_settings({"RYZANSTEIN_NAMESPACE": "rz"})) is None
