"""One GET of a pod's page through the API server and the pod's kubelet, as `kubectl port-forward` would.

The way that network policies leave open: what comes from a pod's own node counts as a probe. Speaks the WebSocket form
of port forwarding, v4.channel.k8s.io: each message is led by its channel (0 data, 1 error), and the first of each
channel is the port. Source: kubelet/pkg/cri/streaming/portforward/websocket.go of Kubernetes.
"""

import asyncio
from typing import Final

import aiohttp

from ryzanstein_kubectl.cluster.session import Session
from ryzanstein_kubectl.model.snapshot import PodKey
from ryzanstein_operator.cluster.client import ApiError

PROTOCOL: Final = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1


async def get(session: Session, pod: PodKey, port: int, path: str, *, seconds: float) -> str:
    """The body of the page at `path`. Raises ApiError."""
    try:
        async with asyncio.timeout(seconds):
            answer = await _exchange(session, pod, port, path)
    except TimeoutError as error:
        raise ApiError(0, f"a port forwarded to the pod gave no answer within {seconds:.0f} s") from error
    return body(answer)


async def _exchange(session: Session, pod: PodKey, port: int, path: str) -> bytes:
    where = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/portforward"
    socket = await session.websocket(where, {"ports": str(port)}, PROTOCOL)
    answer, led = b"", set()
    request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    try:
        await socket.send_bytes(bytes([_DATA]) + request.encode())
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, rest = message.data[0], message.data[1:]
            if channel not in led:  # the port's number, two bytes
                led.add(channel)
                rest = rest[2:]
            if channel == _ERROR and rest:
                raise ApiError(0, rest.decode(errors="replace"))
            answer += rest if channel == _DATA else b""
            if complete(answer):
                break
    finally:
        await socket.close()
    return answer


def complete(answer: bytes) -> bool:
    """Whether an HTTP answer is there to its last byte: not every kubelet closes the connection after it."""
    head, gap, rest = answer.partition(b"\r\n\r\n")
    lengths = [line.split(b":", 1)[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return bool(gap and lengths) and len(rest) >= int(lengths[0])


def body(answer: bytes) -> str:
    """The body of an HTTP answer of status 200. Raises ApiError."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise ApiError(0, "the pod gave no answer")
    if words[1] != b"200":
        raise ApiError(int(words[1]), "the pod has no such page")
    return rest.decode(errors="replace")
