"""kopf's connection to the API server, made by us so that we learn when kopf lists. Knows kopf and aiohttp alone."""

import ssl
from collections.abc import Callable
from types import SimpleNamespace

import aiohttp
import kopf

from ryzanstein_operator.cluster.client import Credentials

_LATER = frozenset(("watch", "continue"))


def session(known: Credentials, listed: Callable[[], None]) -> kopf.AiohttpSession:
    """A session with these credentials. Raises OSError where a file of the credentials cannot be read.

    `listed` is called whenever a list has been answered (its first page, of whose moment all its pages are); kopf
    itself tells of no list that is empty.
    """
    trace = aiohttp.TraceConfig()

    async def ended(_: aiohttp.ClientSession, __: SimpleNamespace, call: aiohttp.TraceRequestEndParams) -> None:
        if call.method == "GET" and call.response.ok and not _LATER.intersection(call.url.query):
            listed()

    trace.on_request_end.append(ended)
    made = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=_tls(known)),
        headers={"Authorization": f"Bearer {known.token}"} if known.token else {},
        trace_configs=[trace],
    )
    return kopf.AiohttpSession(server=known.server, aiohttp_session=made)


def _tls(known: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=known.ca_path)
    if known.certificate_path:
        context.load_cert_chain(known.certificate_path, known.private_key_path)
    if not known.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
