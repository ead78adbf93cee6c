"""Two ends of a new connection show each other that they hold the group's key, without showing it.

Challenge and response both ways (ISO/IEC 9798-4, three passes): each end draws a nonce, and proves the key by an HMAC
over both nonces and its role, so that no answer can be replayed or sent back. The end that listens proves nothing
before the other has. Both derive the keys of this one connection (seal.py) from the nonces.
"""

import hmac
import secrets
import socket
from pathlib import Path

from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.parallel.messages import ChannelClosedError
from ryzanstein_worker.parallel.seal import TAG_BYTES, Seal
from ryzanstein_worker.parallel.streams import read_exactly, send_all

LEAST_KEY_BYTES = 32
_GREETING = b"ryzanstein group 1\n"  # its number changes with the protocol
_NONCE_BYTES = 32
_NO = bytes(TAG_BYTES)  # in place of a proof: the key is another


class HandshakeError(ChannelClosedError):
    """The other side does not hold the key, or speaks something else."""


def read_key(path: Path) -> bytes:
    """The group's key, without white space around it. Raises ConfigError."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"--group-key-file {path} cannot be read: {error.strerror}.") from None
    if len(key) < LEAST_KEY_BYTES:
        raise ConfigError(
            f"--group-key-file {path} holds {len(key)} bytes; a group's key has at least {LEAST_KEY_BYTES} random ones."
        )
    return key


async def admit(sock: socket.socket, key: bytes) -> Seal:
    """The end that listens. Raises HandshakeError, ChannelClosedError; the caller bounds the time."""
    ours = secrets.token_bytes(_NONCE_BYTES)
    await send_all(sock, _GREETING + ours)
    answer = await read_exactly(sock, _NONCE_BYTES + TAG_BYTES)
    nonces = ours + answer[:_NONCE_BYTES]
    if not hmac.compare_digest(answer[_NONCE_BYTES:], _prove(key, b"caller", nonces)):
        await send_all(sock, _NO)
        raise HandshakeError("it does not hold the group's key")
    await send_all(sock, _prove(key, b"listener", nonces))
    return Seal(
        send_key=_prove(key, b"frames of the listener", nonces),
        receive_key=_prove(key, b"frames of the caller", nonces),
    )


async def introduce(sock: socket.socket, key: bytes) -> Seal:
    """The end that has connected. Raises HandshakeError, ChannelClosedError; the caller bounds the time."""
    greeting = await read_exactly(sock, len(_GREETING) + _NONCE_BYTES)
    if not greeting.startswith(_GREETING):
        raise HandshakeError("it speaks another protocol, or another version of this one")
    ours = secrets.token_bytes(_NONCE_BYTES)
    nonces = greeting[len(_GREETING) :] + ours
    await send_all(sock, ours + _prove(key, b"caller", nonces))
    proof = await read_exactly(sock, TAG_BYTES)
    if hmac.compare_digest(proof, _NO):
        raise HandshakeError("it holds another key than this pod's --group-key-file")
    if not hmac.compare_digest(proof, _prove(key, b"listener", nonces)):
        raise HandshakeError("it does not hold the group's key")
    return Seal(
        send_key=_prove(key, b"frames of the caller", nonces),
        receive_key=_prove(key, b"frames of the listener", nonces),
    )


def _prove(key: bytes, role: bytes, nonces: bytes) -> bytes:
    return hmac.digest(key, role + b"\0" + nonces, "sha256")
