"""Leadership: one process at a time holds the Lease. Knows its rules and clocks; knows nothing of what a leader does.

client-go's algorithm and figures: 15 s lease, renewed every 2 s, given up by its holder after 10 s without a renewal.
A holder's own clock alone decides whether it still leads, and another's lease counts as expired only after it has been
watched unchanged for its whole length, so clocks of two machines are never compared.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.client import ApiError, Cluster
from ryzanstein_operator.cluster.heartbeat import Freshness, version_of
from ryzanstein_operator.cluster.resources import LEASES

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 15
RENEW_DEADLINE_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 2.0
CALL_SECONDS: Final = 5.0
RELEASE_SECONDS: Final = 2.0


class LeadershipLostError(Exception):
    """Another process holds the Lease that this one held. The process must end."""


class Lease:
    """This process' part in the election. `run()` never ends by itself but with LeadershipLostError."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        identity: str,
        freshness: Freshness,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self.fault = ""
        self._cluster, self._namespace, self._name = cluster, namespace, name
        self._freshness, self._clock = freshness, clock
        self._lease: Manifest | None = None
        self._observed = (-1, 0.0)  # version of another's lease, and when we first saw it
        self._led = False
        self._renewed_at = float("-inf")

    def held(self) -> bool:
        """May this process write now? Asked before every write; a process that was frozen gets False at once."""
        return self._led and self._clock() - self._renewed_at < RENEW_DEADLINE_SECONDS

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last looked at; empty if nobody."""
        return _holder(self._lease) if self._lease else ""

    async def run(self) -> None:
        """Take the Lease as soon as it is free, and renew it. Raises LeadershipLostError."""
        while True:
            try:
                await self._step()
                self.fault = ""
            except ApiError as error:
                self._failed(error)
            # Spread: two that wait for one Lease must not collide for ever.
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.9, 1.1))

    async def release(self) -> None:
        """Give the Lease back if we hold it, so that another can take it at once. Never raises."""
        if not self.held() or self._lease is None:
            return
        self._led = False
        try:
            await self._call("PUT", self._body("", self._lease), RELEASE_SECONDS)
            logger.info("Released the Lease", extra={"lease": self._name})
        except ApiError as error:
            logger.warning("Could not release the Lease; it expires", extra={"lease": self._name, "error": str(error)})

    async def _step(self) -> None:
        lease = self._lease if self.held() else await self._read()
        if lease is None:
            await self._write("POST", self._body(self.identity))
        elif _holder(lease) in ("", self.identity) or self._expired(lease):
            await self._write("PUT", self._body(self.identity, lease))
        elif self._led:
            raise LeadershipLostError(f"The Lease {self._name} is held by {_holder(lease)}.")

    async def _read(self) -> Manifest | None:
        try:
            lease = await self._call("GET", None, CALL_SECONDS)
        except ApiError as error:
            if error.status == 404:
                self._lease = None
                return None
            raise
        self._lease = lease
        self._freshness.expect(version_of(lease))
        return lease

    async def _write(self, method: str, body: Manifest) -> None:
        started = self._clock()
        self._lease = await self._call(method, body, CALL_SECONDS)
        self._renewed_at = started
        self._freshness.expect(version_of(self._lease))
        if not self._led:
            logger.info("This process leads now", extra={"lease": self._name, "identity": self.identity})
        self._led = True

    def _expired(self, lease: Manifest) -> bool:
        version, now = version_of(lease), self._clock()
        if version != self._observed[0]:
            self._observed = (version, now)
        return now - self._observed[1] > float(lease["spec"].get("leaseDurationSeconds") or LEASE_SECONDS)

    def _failed(self, error: ApiError) -> None:
        if error.conflict:
            # Someone else wrote first: stop writing, and look again at the next turn.
            self._renewed_at = float("-inf")
            return
        if error.transient:
            self._freshness.forgive()
        if str(error) != self.fault:
            logger.warning("Cannot read or renew the Lease", extra={"lease": self._name, "error": str(error)})
        self.fault = str(error)

    def _body(self, holder: str, old: Manifest | None = None) -> Manifest:
        """A whole Lease; over `old` it keeps the acquisition time of an unchanged holder and carries the version."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": holder, "leaseDurationSeconds": LEASE_SECONDS if holder else 1}
        spec |= {"acquireTime": now, "renewTime": now, "leaseTransitions": 0}
        metadata = {"name": self._name, "namespace": self._namespace}
        if old is not None:
            metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
            before = old["spec"]
            same = before.get("holderIdentity") == holder
            spec["acquireTime"] = before.get("acquireTime", now) if same else now
            taken = bool(holder) and not same
            spec["leaseTransitions"] = int(before.get("leaseTransitions") or 0) + taken
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}

    async def _call(self, method: str, body: Manifest | None, seconds: float) -> Manifest:
        path = LEASES.path(self._namespace, "" if method == "POST" else self._name)
        return await self._cluster.call(method, path, body, attempts=1, timeout_seconds=seconds)


def _holder(lease: Manifest) -> str:
    return str(lease.get("spec", {}).get("holderIdentity") or "")
