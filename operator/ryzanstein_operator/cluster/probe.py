"""Whether a node's kubelet answers: the second witness against a node that gateways cannot reach. Sends no credentials.

Any HTTP status is a sign of life, a refusal for want of a key included; so nothing of the answer is read or believed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import aiohttp

from ryzanstein_operator.decide.scene import Node

TRIES: Final = 2
TRY_SECONDS: Final = 1.0
MOST: Final = 64
"""Asked in one round; where more are doubted, it is no fault of a node."""
Probe = Callable[[Iterable[Node]], Awaitable[Mapping[str, bool]]]


async def ask_kubelets(nodes: Iterable[Node]) -> Mapping[str, bool]:
    """Ask the kubelets of up to MOST nodes, all at once; by name, whether each answered. Takes two seconds at most."""
    asked = [node for node in nodes if node.address][:MOST]
    # A kubelet signs its own certificate in most clusters; nothing secret is sent and nothing is believed.
    connector = aiohttp.TCPConnector(ssl=False, limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=TRY_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        answers = await asyncio.gather(*(_answers(session, node) for node in asked))
    return {node.name: answer for node, answer in zip(asked, answers, strict=True)}


async def _answers(session: aiohttp.ClientSession, node: Node) -> bool:
    host = f"[{node.address}]" if ":" in node.address else node.address
    for number in range(TRIES):
        started = asyncio.get_running_loop().time()
        try:
            async with session.get(f"https://{host}:{node.port}/healthz", allow_redirects=False):
                return True
        except (aiohttp.ClientError, TimeoutError, OSError):
            # One that is being started anew refuses at once: give it the time of a try.
            left = TRY_SECONDS - (asyncio.get_running_loop().time() - started)
            if number + 1 < TRIES and left > 0:
                await asyncio.sleep(left)
    return False
