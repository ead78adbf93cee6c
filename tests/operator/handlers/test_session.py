"""The connection that kopf is given: the credentials as they are, and a word whenever a list was answered."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from certificates import Authority, mount
from ryzanstein_operator.cluster.client import Credentials
from ryzanstein_operator.handlers.session import session


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Authority, Path, Path, Path]:
    """An authority, its own certificate's file, and a pair signed by it."""
    authority = Authority()
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    return authority, tmp_path / "ca.crt", *mount(tmp_path / "pair", authority.pair())


@pytest.fixture
async def server(pairs: tuple[Authority, Path, Path, Path]) -> AsyncIterator[str]:
    """An API server that wants a client's certificate, and says 403 to whoever shows no token."""
    _, ca, certificate, key = pairs

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.headers.get("Authorization") == "Bearer secret" else 403)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize("verify", [True, False])
async def test_a_list_that_was_answered_is_told_and_nothing_else(
    server: str, pairs: tuple[Authority, Path, Path, Path], verify: bool
) -> None:
    _, ca, certificate, key = pairs
    told: list[str] = []
    known = Credentials(server, str(ca) if verify else None, "secret", str(certificate), str(key), verify)
    made = session(known, lambda: told.append("list"))
    async with made.aiohttp_session as client:
        for path in ("/api/v1/pods?watch=true", "/api/v1/pods"):
            async with client.get(server + path) as answer:
                assert answer.status == 200
        async with client.patch(f"{server}/api/v1/pods/a") as answer:
            assert answer.status == 200
        assert told == ["list"]
        async with client.get(f"{server}/api/v1/pods", headers={"Authorization": "none"}) as answer:
            assert answer.status == 403
    assert told == ["list"]


async def test_a_server_of_another_authority_is_not_spoken_to(
    server: str, pairs: tuple[Authority, Path, Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "other.crt").write_bytes(Authority().pem)
    known = Credentials(server, str(tmp_path / "other.crt"), None, None, None, True)
    async with session(known, lambda: None).aiohttp_session as client:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await client.get(f"{server}/api/v1/pods")
