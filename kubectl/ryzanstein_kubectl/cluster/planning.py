"""Reads what the operator would look at, with a user's rights: its settings, a service and its children. No write."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from ryzanstein_kubectl.cluster.look import Scope, items
from ryzanstein_kubectl.cluster.session import Session, together
from ryzanstein_kubectl.model.errors import CommandError
from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest, SpecError, parse
from ryzanstein_operator.cluster.client import ApiError
from ryzanstein_operator.cluster.resources import (
    CHILDREN,
    ENDPOINT_SLICES,
    PODS,
    ROUTES,
    SERVICES,
    path_of,
    resource_of,
)
from ryzanstein_operator.decide.observed import Observed, Ref
from ryzanstein_operator.decide.size import in_force
from ryzanstein_operator.desired.children import children
from ryzanstein_operator.settings import Settings, SettingsError
from ryzanstein_worker import contract

OPERATOR_LABELS: Final = f"{contract.LABEL_NAME}=ryzanstein,{contract.LABEL_COMPONENT}=operator"
USUAL_NAMESPACES: Final = ("ryzanstein", "ryzanstein-system")
LABEL_VERSION: Final = "app.kubernetes.io/version"
DEPLOYMENTS: Final = next(resource for resource in CHILDREN if resource.kind == "Deployment")


@dataclass(frozen=True)
class Operator:
    """The operator that watches a namespace: what it was told, and its version."""

    settings: Settings
    version: str


async def operator_of(session: Session, namespace: str, where: str = "") -> Operator:
    """The operator that serves `namespace`; `where` is its own namespace, empty: looked for. Raises CommandError."""
    deployments, everywhere = await _deployments(session, where)
    found = [_operator(deployment) for deployment in deployments]
    serving = [one for one in found if one.settings.watches_all or namespace in one.settings.watch_namespaces]
    if not serving:
        seen = f" Those found watch {'; '.join(map(_watched, found))}." if found else ""
        rest = "" if everywhere else " You may not list Deployments in all namespaces, so it was looked for in a few."
        raise CommandError(
            f"No operator was found that serves namespace {namespace}.{seen}{rest} Name its own namespace with "
            "--operator-namespace, or plan without a cluster: plan -f FILE --offline."
        )
    if len(serving) > 1:
        places = ", ".join(sorted(one.settings.namespace for one in serving))
        raise CommandError(f"Several operators serve {namespace}: choose by --operator-namespace one of {places}.")
    return serving[0]


async def _deployments(session: Session, where: str) -> tuple[list[Manifest], bool]:
    """Deployments of operators, and whether they were looked for wherever they may be."""
    try:
        return await items(session, DEPLOYMENTS, where, OPERATOR_LABELS), True
    except ApiError as error:
        if error.status != 403 or where:
            raise
    found = []
    for namespace in dict.fromkeys((*await _told(session), session.namespace, *USUAL_NAMESPACES)):
        try:
            found += await items(session, DEPLOYMENTS, namespace, OPERATOR_LABELS)
        except ApiError as error:
            if error.status != 403:
                raise
    return found, False


async def _told(session: Session) -> list[str]:
    """The namespaces that the services' URLs name, which are the gateways' and so the operators'."""
    found = []
    for service in await items(session, SERVICES, session.namespace):
        host = urlsplit(service.get("status", {}).get("url", "")).hostname or ""
        name, _, rest = host.partition(".")
        if name.endswith("-gateway") and rest.endswith(".svc"):
            found.append(rest.removesuffix(".svc"))
    return found


def _operator(deployment: Manifest) -> Operator:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {item["name"]: item["value"] for item in container.get("env") or () if "value" in item}
    name = f"{deployment['metadata']['namespace']}/{deployment['metadata']['name']}"
    try:
        settings = Settings.from_environment(environment)
    except SettingsError as error:
        raise CommandError(f"The operator {name} has settings that this plugin cannot read: {error}") from error
    return Operator(settings, str(deployment["metadata"].get("labels", {}).get(LABEL_VERSION, "")))


def _watched(operator: Operator) -> str:
    return "all namespaces" if operator.settings.watches_all else ", ".join(operator.settings.watch_namespaces)


async def services_seen(session: Session, settings: Settings, namespace: str) -> tuple[Manifest, ...]:
    """Every service that the operator sees, as far as the user may: at least those of `namespace`."""
    found: list[Manifest] = []
    for place in settings.watch_namespaces or ("",):
        try:
            found += await items(session, SERVICES, place)
        except ApiError as error:
            if error.status != 403 or place == namespace:
                raise
    if not any(item["metadata"]["namespace"] == namespace for item in found) and settings.watches_all:
        found += await items(session, SERVICES, namespace)
    return tuple(found)


async def observe(session: Session, service: Manifest, services: Sequence[Manifest], settings: Settings) -> Observed:
    """What a visit of the operator would see, less what gateways tell it alone. Raises ApiError."""
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    scope = Scope(namespace, name)
    async with together() as group:
        reading = [
            group.create_task(items(session, resource, namespace, scope.selector))
            for resource in (*CHILDREN, PODS, ENDPOINT_SLICES)
        ]
    *lists, pods, slices = (one.result() for one in reading)
    ours = [child for found in lists for child in found]
    others = [
        item for item in services if (item["metadata"]["namespace"], item["metadata"]["name"]) != (namespace, name)
    ]
    observed = Observed(
        service=service,
        children=tuple(ours),
        pods=tuple(pods),
        endpoint_slices=tuple(slices),
        services=(*others, service),
    )
    return replace(observed, children=(*ours, *await _strangers(session, observed, settings)))


async def _strangers(session: Session, observed: Observed, settings: Settings) -> list[Manifest]:
    """Objects without our label that bear a name the operator would take."""
    try:
        parsed = parse(InferenceService, observed.service)
        wanted = [Ref.of(child) for child in children(parsed, settings, in_force(observed, parsed))]
    except SpecError:
        return []
    known = {Ref.of(child) for child in observed.children}
    found = []
    for ref in wanted:
        if ref not in known:
            try:
                live = await session.call("GET", path_of(ref))
            except ApiError as error:
                if error.status != 404:
                    raise
            else:
                head = resource_of(ref)
                found.append({"apiVersion": head.api_version, "kind": head.kind} | live)
    return found


async def routes_of(session: Session, settings: Settings) -> Manifest | None:
    """The gateway's route table as it stands; None where there is none. Raises ApiError."""
    try:
        return await session.call("GET", ROUTES.path(settings.namespace, contract.ROUTES_CONFIG_MAP))
    except ApiError as error:
        if error.status == 404:
            return None
        raise
