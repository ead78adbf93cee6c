"""The gateway's settings: read once from the environment, checked, frozen.

Knows names and bounds of the settings; must not know who uses them.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ryzanstein_gateway.cpus import usable_cpus
from ryzanstein_gateway.trace import is_enabled
from ryzanstein_worker.contract import API_PORT, ENV_LOG_LEVEL, GRPC_PORT, HEALTH_PORT

ALL_NAMESPACES: Final = "*"
_MOST_BY_DEFAULT: Final = 4


class SettingsError(Exception):
    """A setting is missing or out of range. Carries one sentence for whoever set it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that can be set. Durations are seconds, sizes are bytes."""

    namespace: str
    """Where the ConfigMap of routes lies: the release's namespace."""
    watch_namespaces: tuple[str, ...]
    """Where EndpointSlices are watched, one watch each; `("*",)` is a single watch over the whole cluster."""
    auth_required: bool = True
    keysets_dir: Path = Path("/etc/ryzanstein/keysets")
    host: str = "0.0.0.0"
    port: int = API_PORT
    health_port: int = HEALTH_PORT
    grpc_port: int = GRPC_PORT
    max_body_bytes: int = 8 * 1024 * 1024
    max_head_bytes: int = 32 * 1024
    max_connections: int = 10_000
    head_timeout_seconds: float = 10.0
    body_timeout_seconds: float = 30.0
    request_timeout_seconds: float = 600.0
    connect_timeout_seconds: float = 2.0
    keep_alive_seconds: float = 65.0
    check_seconds: float = 1.0
    """How often each replica's health page is read."""
    replica_wait_seconds: float = 10.0
    """How long a request that has lost its replica waits for another to take it."""
    retry_percent: int = 10
    """Sends beyond the first, migrations included, of the requests of ten seconds; `retry_reserve` more are free."""
    retry_reserve: int = 100
    realtime_max_requests: int = 32
    """Requests at once over one WebSocket."""
    realtime_idle_seconds: float = 300.0
    """A WebSocket on which nothing has run or come for so long is closed."""
    drain_grace_seconds: float = 5.0
    """How long a terminating gateway goes on accepting, until every kube-proxy has heard of it."""
    drain_seconds: float = 120.0
    watch_seconds: float = 30.0
    """Life of one watch request. The server ends it then; one that is silent for longer is dead."""
    replicas: int = 1
    """Gateway pods. Limits, queues and the replicas' capacity are divided among them."""
    high_priority_key_sets: frozenset[str] = frozenset()
    """Key sets whose keys may ask for high priority."""
    operator_url: str = ""
    """Where to say that requests wait for a replica (contract.DEMAND_PATH). Empty: nowhere."""
    operator_key_file: Path = Path("/etc/ryzanstein/demand/key")
    log_level: str = "INFO"
    tls_cert_file: Path | None = None
    """The certificate chain, PEM. With it and its key the API speaks TLS only; both may change at any time."""
    tls_key_file: Path | None = None
    traces: bool = False
    """Whether the OTEL_* variables ask for traces; they hold the rest of what can be set about them."""
    stuck_seconds: float = 15.0
    """A process of several that has been silent for so long is killed and replaced."""
    processes: int = 1
    """How many processes share the port."""
    slot: int = 0
    """Which of them this is, from 0."""
    shared_dir: Path | None = None
    """A folder that all of them share, empty at the start, gone with their parent. None where there is but one."""


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the environment. Raises SettingsError with a sentence that names the variable."""
    namespace = environ.get("RYZANSTEIN_NAMESPACE", "")
    if not namespace:
        raise SettingsError("RYZANSTEIN_NAMESPACE must name the namespace that holds the ConfigMap of routes.")
    tls = _tls(environ)
    return Settings(
        namespace=namespace,
        watch_namespaces=_namespaces(environ.get("RYZANSTEIN_WATCH_NAMESPACES", ""), namespace),
        auth_required=_choice(environ, "RYZANSTEIN_GATEWAY_AUTH", "required", ("required", "none")) == "required",
        keysets_dir=Path(environ.get("RYZANSTEIN_KEYSETS_DIR") or Settings.keysets_dir),
        host=environ.get("RYZANSTEIN_GATEWAY_HOST") or Settings.host,
        port=_integer(environ, "RYZANSTEIN_GATEWAY_PORT", Settings.port, 0, 65535),
        health_port=_integer(environ, "RYZANSTEIN_GATEWAY_HEALTH_PORT", Settings.health_port, 0, 65535),
        grpc_port=_integer(environ, "RYZANSTEIN_GATEWAY_GRPC_PORT", Settings.grpc_port, 0, 65535),
        max_body_bytes=_integer(environ, "RYZANSTEIN_MAX_BODY_BYTES", Settings.max_body_bytes, 1, 1 << 30),
        max_connections=_integer(environ, "RYZANSTEIN_MAX_CONNECTIONS", Settings.max_connections, 1, 1_000_000),
        body_timeout_seconds=_seconds(environ, "RYZANSTEIN_BODY_TIMEOUT_SECONDS", Settings.body_timeout_seconds),
        request_timeout_seconds=_seconds(
            environ, "RYZANSTEIN_REQUEST_TIMEOUT_SECONDS", Settings.request_timeout_seconds
        ),
        connect_timeout_seconds=_seconds(
            environ, "RYZANSTEIN_CONNECT_TIMEOUT_SECONDS", Settings.connect_timeout_seconds
        ),
        realtime_max_requests=_integer(
            environ, "RYZANSTEIN_REALTIME_MAX_REQUESTS", Settings.realtime_max_requests, 1, 1024
        ),
        realtime_idle_seconds=_seconds(environ, "RYZANSTEIN_REALTIME_IDLE_SECONDS", Settings.realtime_idle_seconds),
        check_seconds=_seconds(environ, "RYZANSTEIN_HEALTH_CHECK_SECONDS", Settings.check_seconds),
        replica_wait_seconds=_seconds(environ, "RYZANSTEIN_REPLICA_WAIT_SECONDS", Settings.replica_wait_seconds),
        retry_percent=_integer(environ, "RYZANSTEIN_RETRY_PERCENT", Settings.retry_percent, 0, 100),
        retry_reserve=_integer(environ, "RYZANSTEIN_RETRY_RESERVE", Settings.retry_reserve, 0, 1_000_000),
        drain_grace_seconds=_seconds(environ, "RYZANSTEIN_DRAIN_GRACE_SECONDS", Settings.drain_grace_seconds),
        drain_seconds=_seconds(environ, "RYZANSTEIN_DRAIN_SECONDS", Settings.drain_seconds),
        watch_seconds=_seconds(environ, "RYZANSTEIN_WATCH_SECONDS", Settings.watch_seconds),
        tls_cert_file=tls[0],
        tls_key_file=tls[1],
        traces=is_enabled(environ),
        stuck_seconds=_seconds(environ, "RYZANSTEIN_GATEWAY_STUCK_SECONDS", Settings.stuck_seconds),
        processes=_integer(environ, "RYZANSTEIN_GATEWAY_PROCESSES", min(usable_cpus(), _MOST_BY_DEFAULT), 1, 64),
        replicas=_integer(environ, "RYZANSTEIN_GATEWAY_REPLICAS", Settings.replicas, 1, 1024),
        high_priority_key_sets=frozenset(
            name for part in environ.get("RYZANSTEIN_HIGH_PRIORITY_KEY_SETS", "").split(",") if (name := part.strip())
        ),
        operator_url=_http_url(environ, "RYZANSTEIN_OPERATOR_URL"),
        operator_key_file=Path(environ.get("RYZANSTEIN_DEMAND_KEY_FILE") or Settings.operator_key_file),
        log_level=_choice(environ, ENV_LOG_LEVEL, "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
    )


def _tls(environ: Mapping[str, str]) -> tuple[Path | None, Path | None]:
    names = ("RYZANSTEIN_GATEWAY_TLS_CERT_FILE", "RYZANSTEIN_GATEWAY_TLS_KEY_FILE")
    chain, key = (Path(value) if (value := environ.get(name)) else None for name in names)
    if (chain is None) != (key is None):
        raise SettingsError(f"{' and '.join(names)} go together: set both or none.")
    return chain, key


def _namespaces(value: str, own: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip())) or (own,)
    return (ALL_NAMESPACES,) if ALL_NAMESPACES in names else names


def _http_url(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "").strip().rstrip("/")
    if value and not re.fullmatch(r"http://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?", value):
        raise SettingsError(f"{name} must be http:// with a host and a port, without a path.")
    return value


def _choice(environ: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = environ.get(name) or default
    for word in allowed:
        if value.lower() == word.lower():
            return word
    raise SettingsError(f"{name} must be one of {', '.join(allowed)}.")


def _integer(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    value = environ.get(name) or str(default)
    if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
        raise SettingsError(f"{name} must be an integer from {low} to {high}.")
    return int(value)


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(environ.get(name) or default)
    except ValueError:
        value = -1.0
    if not 0 < value <= 86_400:
        raise SettingsError(f"{name} must be a number of seconds above 0 and at most 86400.")
    return value
