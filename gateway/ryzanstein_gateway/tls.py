"""The gateway's own certificate: read from mounted files, replaced while connections go on.

Knows PEM files, how the kubelet swaps them, and what OpenSSL takes; knows nothing of requests. The private key stays in
memory: OpenSSL reads files only, so it is shown anonymous ones.
"""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ryzanstein_gateway.expiry import expires_at
from ryzanstein_gateway.settings import Settings, SettingsError

if TYPE_CHECKING:  # the parent of several processes checks the certificate too, and serves no gRPC
    import grpc

POLL_SECONDS: Final = 1.0
WARN_DAYS: Final = 14.0
"""So long before the certificate expires it is warned of, once a day."""
_DAY_SECONDS: Final = 86_400.0
_MAX_FILE_BYTES: Final = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its private key, both PEM."""

    chain: bytes
    key: bytes = field(repr=False)


class BrokenPairError(Exception):
    """The files hold no certificate chain with its key. Carries one sentence."""


def read_pair(chain: Path, key: Path) -> Pair:
    """What the two files hold. Raises BrokenPairError."""
    try:
        return Pair(_read(chain), _read(key))
    except OSError as error:
        raise BrokenPairError(f"{error.filename} cannot be read: {error.strerror}.") from None


def new_context(pair: Pair) -> ssl.SSLContext:
    """A server's context: TLS 1.2 at least, HTTP/1.1. Raises BrokenPairError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load(context, pair)
    return context


class Certificate:
    """The pair in force. `context` is for the whole life of a server: its next handshake takes the newest good pair."""

    def __init__(self, chain: Path, key: Path) -> None:
        self._paths = (chain, key)
        self._seen = self._fingerprint()
        self.pair = read_pair(chain, key)
        self.context = new_context(self.pair)
        self.expires_at = expires_at(self.pair.chain)
        """Unix seconds, of the first in the chain; None where no date can be read."""
        self._warn_at = 0.0

    def refresh(self) -> None:
        """Take the files if they have changed and are good; otherwise say so once and keep what is in force."""
        seen = self._fingerprint()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            pair = read_pair(*self._paths)
            new_context(pair)  # a context that fails to load a pair has lost the one it had
            if pair != self.pair:
                _load(self.context, pair)
                self.pair, self.expires_at, self._warn_at = pair, expires_at(pair.chain), 0.0
                _log.info("a new TLS certificate is in force")
        except BrokenPairError as error:
            _log.error("the TLS certificate of before stays in force: %s", error)

    async def watch(self, *, warn: bool = True) -> None:
        """Refresh for ever. On the event loop, which alone makes handshakes with the context; it takes a millisecond,
        and only after a change. `warn`: also say when the certificate expires soon."""
        while True:
            if warn:
                self.warn(time.time())
            await asyncio.sleep(POLL_SECONDS)
            self.refresh()

    def warn(self, now: float) -> None:
        """Say that the certificate expires soon or has expired: once a day, and at once after a change."""
        days = None if self.expires_at is None else (self.expires_at - now) / _DAY_SECONDS
        if days is None or days > WARN_DAYS or now < self._warn_at:
            return
        self._warn_at = now + _DAY_SECONDS
        when = f"expires in {days:.1f} days" if days > 0 else "has expired: clients refuse it"
        _log.warning("the TLS certificate %s; renew the Secret that holds it", when)

    def _fingerprint(self) -> tuple[tuple[int, int, int], ...]:
        """Changes whenever a file does, a swap of the kubelet's symlinks included."""
        found = []
        for path in self._paths:
            try:
                stat = path.stat()
                found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
            except OSError:
                found.append((0, 0, 0))
        return tuple(found)


def certificate_of(settings: Settings) -> Certificate | None:
    """The certificate that the settings name, if any. Raises SettingsError for one that cannot be used."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    try:
        return Certificate(settings.tls_cert_file, settings.tls_key_file)
    except BrokenPairError as error:
        raise SettingsError(f"RYZANSTEIN_GATEWAY_TLS_CERT_FILE, RYZANSTEIN_GATEWAY_TLS_KEY_FILE: {error}") from None


def grpc_credentials(certificate: Certificate | None) -> "grpc.ServerCredentials | None":
    """The same pair for a gRPC server, asked for anew at each handshake, on a thread of gRPC's."""
    if certificate is None:
        return None
    import grpc

    told = certificate.pair

    def configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])

    def newer() -> grpc.ServerCertificateConfiguration | None:
        nonlocal told
        pair = certificate.pair
        if pair is told:
            return None  # gRPC builds nothing anew then
        told = pair
        return configuration(pair)

    return grpc.dynamic_ssl_server_credentials(configuration(told), newer)  # type: ignore[arg-type]  # None is documented


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES)


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    with _in_memory(pair.chain) as chain, _in_memory(pair.key) as key:
        try:
            context.load_cert_chain(chain, key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or "the key needs a password"
            raise BrokenPairError(f"The certificate and its key do not fit: {reason}.") from None


def _no_password() -> str:
    raise ValueError


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """The path of an anonymous file with this content."""
    with ExitStack() as stack:
        descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
        stack.callback(os.close, descriptor)
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
