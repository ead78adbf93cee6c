"""A certificate's end is read, shown, and warned of two weeks ahead."""

import base64
import logging
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from certificates import Authority, mount
from gateway_world import open_world
from ryzanstein_gateway.expiry import expires_at
from ryzanstein_gateway.tls import Certificate

AUTHORITY = Authority()
DAY = 86_400.0


def end_of(pem: bytes) -> float:
    """What a library that knows all of X.509 reads."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


@pytest.mark.parametrize("days", [-1.0, 0.5, 90.0, 9_000.0, 40_000.0])  # the last two on both sides of 2050
def test_the_date_is_the_certificates(days: float) -> None:
    chain, _ = AUTHORITY.pair(days=days)
    assert expires_at(chain) == end_of(chain)


def test_of_a_chain_the_first_end_counts() -> None:
    leaf, _ = AUTHORITY.pair(days=9_000)
    other, _ = AUTHORITY.pair(days=20)
    assert expires_at(b"# a comment\n" + leaf + other + AUTHORITY.pem) == end_of(other)


def block(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@given(st.binary(max_size=64), st.integers(0, 300))
def test_what_is_no_certificate_has_no_date(noise: bytes, cut: int) -> None:
    der = base64.b64decode(b"".join(AUTHORITY.pem.splitlines()[1:-1]))
    assert expires_at(block(noise)) is None
    assert expires_at(b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----" % noise) is None
    assert expires_at(block(der[: min(cut, len(der) - 1)])) is None
    assert expires_at(b"") is None


def test_it_is_warned_of_once_a_day_from_two_weeks_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = AUTHORITY.pair(days=30), AUTHORITY.pair(days=10)
    one = Certificate(*mount(tmp_path, first))
    end = end_of(first[0])
    for before, said in ((15.0, 0), (13.9, 1), (13.8, 1), (13.0, 1), (12.8, 2), (-0.1, 3)):
        one.warn(end - before * DAY)
        assert caplog.text.count("the TLS certificate") == said
    assert "expires in 13.9 days" in caplog.text
    assert "has expired" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        mount(tmp_path, second)
        one.refresh()
    one.warn(end_of(second[0]) - 9.9 * DAY)
    assert "expires in 9.9 days" in caplog.text, "the new one at once"


@pytest.mark.slow
async def test_a_gateway_shows_the_end_of_its_certificate_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pair = AUTHORITY.pair(days=5)
    chain, key = mount(tmp_path / "tls", pair)
    name = "ryzanstein_gateway_tls_certificate_expiry_timestamp_seconds"
    async with open_world(tmp_path, monkeypatch, tls_cert_file=chain, tls_key_file=key) as world:
        assert await world.metric(name) == end_of(pair[0])
    assert "expires in 5.0 days" in caplog.text
