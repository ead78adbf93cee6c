"""The operator's environment, read once at the edge into a frozen value. Bad values raise with a sentence."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


class SettingsError(ValueError):
    """An environment variable cannot be used. The text is one sentence that names it."""


_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")


@dataclass(frozen=True)
class Tracing:
    """Where workers send their traces: an OTLP/HTTP collector's base URL, which may run in namespaces with these labels
    (none: anywhere). `sample_percent`: of the traces that nobody has decided about before."""

    endpoint: str
    sample_percent: int = 100
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """The TCP port of the endpoint."""
        parts = urlsplit(self.endpoint)
        return parts.port or (443 if parts.scheme == "https" else 80)


@dataclass(frozen=True)
class Metrics:
    """The Prometheus that autoscaling asks: its base URL; files with a bearer token and with the certificates of its
    authority, where it wants or has such."""

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True)
class Settings:
    """What the operator was told at its start.

    watch_namespaces: where InferenceServices are served; empty means every namespace.
    gateway_labels: selector labels of the gateway's pods in `namespace`; only they may call a worker's API.
    metrics_namespace_labels: labels of the namespaces whose pods may read a worker's metrics; empty means none.
    prometheus_labels: selector labels of the release's own Prometheus in `namespace`, which may too; empty: none.
    demand_key_file: holds the key with which gateways say that requests wait; None means that none may.
    tracing: where workers send their traces; None means that they make none.
    node_health: nodes may be read, and their kubelets asked; node_taints: besides, nodes may be tainted.
    prometheus: where the metrics are that autoscaling goes by; None means that sizes are held.
    hub_endpoint: a mirror that speaks the Hugging Face hub's protocol; empty means the hub itself.
    """

    namespace: str
    worker_image: str
    gateway_url: str = ""
    watch_namespaces: tuple[str, ...] = ()
    image_pull_policy: str = "IfNotPresent"
    gateway_labels: Mapping[str, str] = field(default_factory=dict)
    metrics_namespace_labels: Mapping[str, str] = field(default_factory=dict)
    prometheus_labels: Mapping[str, str] = field(default_factory=dict)
    lease_name: str = "ryzanstein-operator"
    pod_name: str = "ryzanstein-operator"
    hub_endpoint: str = ""
    demand_key_file: Path | None = None
    tracing: Tracing | None = None
    prometheus: Metrics | None = None
    node_health: bool = False
    node_taints: bool = False

    @property
    def watches_all(self) -> bool:
        return not self.watch_namespaces

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Reads RYZANSTEIN_* from `environment`. Raises SettingsError."""
        namespace = _label("RYZANSTEIN_NAMESPACE", _required(environment, "RYZANSTEIN_NAMESPACE"))
        return cls(
            namespace=namespace,
            worker_image=_required(environment, "RYZANSTEIN_WORKER_IMAGE"),
            gateway_url=_url(environment, "RYZANSTEIN_GATEWAY_URL"),
            watch_namespaces=_namespaces(environment.get("RYZANSTEIN_WATCH_NAMESPACES", ""), namespace),
            image_pull_policy=_pull_policy(environment),
            gateway_labels=_labels(environment, "RYZANSTEIN_GATEWAY_LABELS"),
            metrics_namespace_labels=_labels(environment, "RYZANSTEIN_METRICS_NAMESPACE_LABELS"),
            prometheus_labels=_labels(environment, "RYZANSTEIN_PROMETHEUS_LABELS"),
            lease_name=_label("RYZANSTEIN_LEASE_NAME", environment.get("RYZANSTEIN_LEASE_NAME") or cls.lease_name),
            hub_endpoint=_url(environment, "RYZANSTEIN_HUB_ENDPOINT"),
            demand_key_file=Path(path) if (path := environment.get("RYZANSTEIN_DEMAND_KEY_FILE")) else None,
            tracing=_tracing(environment),
            prometheus=_prometheus(environment),
            pod_name=environment.get("RYZANSTEIN_POD_NAME") or cls.pod_name,
            node_health=_flag(environment, "RYZANSTEIN_NODE_HEALTH"),
            node_taints=_node_taints(environment),
        )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise SettingsError(f"{name} is not set; the chart sets it, so set it too when you start the operator by hand.")
    return value


def _flag(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "").strip() or "false"
    if value not in ("true", "false"):
        raise SettingsError(f"{name} is {value!r}; it must be true or false.")
    return value == "true"


def _node_taints(environment: Mapping[str, str]) -> bool:
    taints = _flag(environment, "RYZANSTEIN_NODE_TAINTS")
    if taints and not _flag(environment, "RYZANSTEIN_NODE_HEALTH"):
        raise SettingsError("RYZANSTEIN_NODE_TAINTS is true, which needs RYZANSTEIN_NODE_HEALTH to be true as well.")
    return taints


def _label(name: str, value: str) -> str:
    if len(value) > 63 or not _LABEL.fullmatch(value):
        raise SettingsError(f"{name} is {value!r}; it must be a DNS label: at most 63 of a-z, 0-9 and '-'.")
    return value


def _namespaces(text: str, release: str) -> tuple[str, ...]:
    """ "*" means all (the empty tuple), nothing means the release's own."""
    names = [part.strip() for part in text.split(",") if part.strip()] or [release]
    if "*" in names:
        if len(names) > 1:
            raise SettingsError("RYZANSTEIN_WATCH_NAMESPACES names '*' (all) beside others; give either '*' or a list.")
        return ()
    return tuple(dict.fromkeys(_label("RYZANSTEIN_WATCH_NAMESPACES", name) for name in names))


def _url(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "").strip().rstrip("/")
    if value and not value.startswith(("http://", "https://")):
        raise SettingsError(f"{name} is {value!r}; it must start with http:// or https://.")
    return value


def _base_url(environment: Mapping[str, str], name: str) -> str:
    """A URL that names a host, or nothing."""
    url = _url(environment, name)
    try:
        parts = urlsplit(url)
        named = not url or (bool(parts.hostname) and parts.port != 0)
    except ValueError:
        named = False
    if not named:
        raise SettingsError(f"{name} is {url!r}; it must name a host, and its port must be from 1 to 65535.")
    return url


def _prometheus(environment: Mapping[str, str]) -> Metrics | None:
    name = "RYZANSTEIN_PROMETHEUS_URL"
    url = _base_url(environment, name)
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingsError(
            f"{name} holds a user, a query or a fragment; give the base URL alone, and a token by "
            "RYZANSTEIN_PROMETHEUS_TOKEN_FILE."
        )
    token, authority = (_file(environment, f"RYZANSTEIN_PROMETHEUS_{part}_FILE") for part in ("TOKEN", "CA"))
    if (token or authority) and not url:
        raise SettingsError(f"{name} is not set, but a token or an authority for it is; set it, or neither.")
    if authority and parts.scheme != "https":
        raise SettingsError(
            f"{name} is {url!r}, but RYZANSTEIN_PROMETHEUS_CA_FILE is set, which is for https:// alone."
        )
    return Metrics(url, token, authority) if url else None


def _file(environment: Mapping[str, str], name: str) -> Path | None:
    path = environment.get(name, "").strip()
    return Path(path) if path else None


def _tracing(environment: Mapping[str, str]) -> Tracing | None:
    name = "RYZANSTEIN_TRACING_ENDPOINT"
    endpoint = _base_url(environment, name)
    if not endpoint:
        return None
    percent = environment.get("RYZANSTEIN_TRACING_SAMPLE_PERCENT") or "100"
    if not percent.isascii() or not percent.isdigit() or int(percent) > 100:
        raise SettingsError(f"RYZANSTEIN_TRACING_SAMPLE_PERCENT is {percent!r}; it must be an integer from 0 to 100.")
    return Tracing(endpoint, int(percent), _labels(environment, "RYZANSTEIN_TRACING_NAMESPACE_LABELS"))


def _pull_policy(environment: Mapping[str, str]) -> str:
    value = environment.get("RYZANSTEIN_IMAGE_PULL_POLICY") or "IfNotPresent"
    if value not in _PULL_POLICIES:
        raise SettingsError(f"RYZANSTEIN_IMAGE_PULL_POLICY is {value!r}; choose one of {', '.join(_PULL_POLICIES)}.")
    return value


def _labels(environment: Mapping[str, str], name: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in environment.get(name, "").split(","))):
        key, equals, value = part.partition("=")
        if not equals or not _LABEL_KEY.fullmatch(key) or len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
            raise SettingsError(f"{name} holds {part!r}; write labels as key=value, with commas between them.")
        labels[key] = value
    return labels
