"""Where a replica's model comes from: the worker's `--model`, the volume behind it, the download before it. Pure."""

from dataclasses import dataclass

from ryzanstein_operator.api.inference_service import Model
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.settings import Settings
from ryzanstein_worker.contract import ENV_HUB_ENDPOINT, ENV_HUB_TOKEN

MODELS_DIR = "/mnt/models"
VOLUME = "model"
DEFAULT_REVISION = "main"
# A ceiling against a runaway download, far above any model; nothing is set aside for it.
SCRATCH_LIMIT = "1Ti"


@dataclass(frozen=True)
class Download:
    """What the init container fetches, and the directory it fetches into."""

    uri: str
    revision: str
    output: str
    environment: tuple[Manifest, ...]


@dataclass(frozen=True)
class Source:
    """reference: the worker's `--model`; volume: the one that holds it, if any; download: what fills it, if needed."""

    reference: str
    volume: Manifest | None = None
    download: Download | None = None


def model_source(model: Model, settings: Settings) -> Source:
    """Reads the model's URI. The URI has been held to the API's rules, so each scheme is well formed."""
    scheme, _, rest = model.uri.partition("://")
    if scheme == "pvc":
        claim, _, path = rest.partition("/")
        return Source(f"{MODELS_DIR}/{path}".rstrip("/"), _claim(claim, read_only=True))
    if scheme == "hf":
        return _hub_source(model, rest, settings)
    return Source(model.uri)


def _hub_source(model: Model, repository: str, settings: Settings) -> Source:
    revision = model.revision or DEFAULT_REVISION
    # "@" is in no repository's and no revision's name, and "--" stands for "/", as in the hub's own cache.
    output = f"{MODELS_DIR}/{repository.replace('/', '--')}@{revision.replace('/', '--')}"
    environment: list[Manifest] = []
    if settings.hub_endpoint:
        environment.append({"name": ENV_HUB_ENDPOINT, "value": settings.hub_endpoint})
    if model.token_secret:
        key = {"name": model.token_secret.name, "key": model.token_secret.key}
        environment.append({"name": ENV_HUB_TOKEN, "valueFrom": {"secretKeyRef": key}})
    scratch = {"name": VOLUME, "emptyDir": {"sizeLimit": SCRATCH_LIMIT}}
    volume = _claim(model.cache_claim, read_only=False) if model.cache_claim else scratch
    return Source(output, volume, Download(model.uri, revision, output, tuple(environment)))


def _claim(claim: str, *, read_only: bool) -> Manifest:
    reference: Manifest = {"claimName": claim}
    if read_only:
        reference["readOnly"] = True
    return {"name": VOLUME, "persistentVolumeClaim": reference}
