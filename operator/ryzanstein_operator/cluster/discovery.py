"""Waits until the API server knows our custom resources. Knows nothing of what is done with them."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ryzanstein_operator.cluster.client import ApiError, Cluster
from ryzanstein_operator.cluster.resources import GROUP_VERSION, SERVICES

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 2.0


async def wait_for_resources(cluster: Cluster, tell: Callable[[str], None]) -> None:
    """Return once InferenceServices can be listed. `tell` gets the reason for the wait, empty at its end.

    An operator that is started before its CRDs waits; it does not crash and be restarted ever more slowly.
    """
    last = ""
    while reason := await _missing(cluster):
        if reason != last:
            logger.warning("Waiting for the custom resources", extra={"reason": reason})
        last = reason
        tell(reason)
        await asyncio.sleep(POLL_SECONDS)
    tell("")


async def _missing(cluster: Cluster) -> str:
    try:
        found = await cluster.call("GET", f"/apis/{GROUP_VERSION}", attempts=1)
    except ApiError as error:
        return f"{GROUP_VERSION} is not served: install the CRDs. ({error})" if error.status == 404 else str(error)
    if any(resource["name"] == SERVICES.plural for resource in found["resources"]):
        return ""
    return f"{GROUP_VERSION} has no {SERVICES.plural}: install the CRDs."
