"""Talks to the API server: one call in, a manifest or an ApiError out. Knows HTTP and credentials, no resource of ours.

Every call has a deadline. What may pass by itself (429, 5xx, a broken connection) is tried again with jitter; the rest
is told to the caller at once.
"""

import asyncio
import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio import client, config

from ryzanstein_operator.api.wire import Manifest

logger = logging.getLogger(__name__)

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
CALL_SECONDS: Final = 10.0
"""Of one attempt. A call that hangs longer than that is a call that failed."""
ATTEMPTS: Final = 5
BACKOFF_SECONDS: Final = 0.25
MAX_RETRY_AFTER_SECONDS: Final = 30.0
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class ApiError(Exception):
    """The API server refused, or could not be reached (status 0). `sentence` is its own message, `reason` its word for
    the cause, such as AlreadyExists, where it gives one."""

    def __init__(self, status: int, sentence: str, retry_after: float = 0.0, reason: str = "") -> None:
        super().__init__(f"{status}: {sentence}" if status else sentence)
        self.status = status
        self.reason = reason
        self.sentence = sentence
        self.retry_after = retry_after

    @property
    def transient(self) -> bool:
        """It may pass by itself: nobody has to change anything."""
        return self.status in (0, 429) or self.status >= 500

    @property
    def conflict(self) -> bool:
        """The object changed or was replaced meanwhile: look again."""
        return self.status == 409


@dataclass(frozen=True)
class Credentials:
    """How to reach the server, for a client that is not ours. Paths of files, and the token at this moment."""

    server: str
    ca_path: str | None
    token: str | None
    certificate_path: str | None
    private_key_path: str | None
    verify: bool


@dataclass(frozen=True)
class Call:
    """One attempt at a call that has ended. status: 0 where no answer came. attempt: 1 for the first. seconds: it took
    so long. error: the API server's sentence, or what kept it from answering; empty where all went well."""

    method: str
    path: str
    status: int
    attempt: int
    seconds: float
    error: str = ""


class Cluster:
    """A connection to one API server. Close it."""

    def __init__(self, api: client.ApiClient) -> None:
        self.watcher: Callable[[Call], None] = lambda _: None
        """Told of each attempt, in the task that made it. Must not raise."""
        self.may_write: Callable[[], bool] = lambda: True
        """Asked before a write is tried again: whoever was frozen since the first try may have lost the lead."""
        self._api = api

    @classmethod
    async def connect(cls) -> Self:
        """Uses the pod's service account, else the kubeconfig. Raises ApiError where neither can be read."""
        configuration = client.Configuration()
        try:
            if _SERVICE_ACCOUNT.exists():
                config.load_incluster_config(client_configuration=configuration)
            else:
                # Named here, because the client looks at KUBECONFIG once, at its import, and then takes the home's.
                path = os.environ.get("KUBECONFIG") or None
                await config.load_kube_config(path, client_configuration=configuration, persist_config=False)
        except (config.ConfigException, OSError) as error:
            raise ApiError(0, f"No credentials for a cluster: {error}") from error
        configuration.retries = None
        return cls(client.ApiClient(configuration))

    async def close(self) -> None:
        await self._api.close()

    async def credentials(self) -> Credentials:
        """The credentials as they are now; a rotated token is read anew."""
        configuration = self._api.configuration
        header = await configuration.get_api_key_with_prefix("BearerToken")
        return Credentials(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            token=header.split(" ", 1)[-1] if header else None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            verify=configuration.verify_ssl,
        )

    async def call(
        self,
        method: str,
        path: str,
        body: Manifest | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        attempts: int = ATTEMPTS,
        timeout_seconds: float = CALL_SECONDS,
    ) -> Manifest:
        """One call, tried up to `attempts` times while the fault may pass. Raises ApiError."""
        for attempt in range(1, attempts + 1):
            try:
                return await self._watched(attempt, method, path, body, query or {}, content_type, timeout_seconds)
            except ApiError as error:
                if not error.transient or attempt == attempts:
                    raise
                # With jitter: many operators, or many services of one, must not come back at the same instant.
                asked = error.retry_after * random.uniform(1.0, 1.25)
                delay = max(asked, random.uniform(0.5, 1.0) * BACKOFF_SECONDS * 2 ** (attempt - 1))
                logger.info("The API server did not take a call; trying again", extra={"call": f"{method} {path}",
                            "error": str(error), "delay_seconds": round(delay, 3)})  # fmt: skip
                await asyncio.sleep(delay)
                if method != "GET" and not self.may_write():
                    raise
        raise AssertionError("attempts is at least one")

    async def _watched(self, attempt: int, method: str, path: str, *rest: Any) -> Manifest:
        started, status, words = time.monotonic(), 0, "cancelled"
        try:
            answer = await self._once(method, path, *rest)
            status, words = 200, ""
            return answer
        except ApiError as error:
            status, words = error.status, error.sentence
            raise
        finally:
            self.watcher(Call(method, path, status, attempt, time.monotonic() - started, words))

    async def _once(
        self, method: str, path: str, body: Manifest | None, query: Mapping[str, str], content_type: str, seconds: float
    ) -> Manifest:
        prepared = await self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = await self._api.call_api(*prepared, _request_timeout=aiohttp.ClientTimeout(total=seconds))
            text = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, f"The API server cannot be reached: {error or type(error).__name__}") from error
        if not 200 <= answer.status < 300:
            told = _status(text)
            words = told.get("message") if told else text.decode(errors="replace")
            sentence = str(words or answer.reason or "no reason given")[:1000]
            raise ApiError(answer.status, sentence, _retry_after(answer.headers), str(told.get("reason") or ""))
        return _manifest(text)


def _manifest(text: bytes) -> Manifest:
    try:
        decoded: Any = json.loads(text)
    except ValueError as error:
        raise ApiError(502, "The API server's answer is not JSON.") from error
    if not isinstance(decoded, dict):
        raise ApiError(502, "The API server's answer is not an object.")
    return decoded


def _status(text: bytes) -> Manifest:
    """The v1 Status in an answer; empty where it is something else, such as a proxy's page."""
    try:
        decoded: Any = json.loads(text)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return min(max(float(headers.get("Retry-After", "0")), 0.0), MAX_RETRY_AFTER_SECONDS)
    except ValueError:
        return 0.0
