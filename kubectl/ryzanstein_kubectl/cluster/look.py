"""One look at the cluster: lists, never watches, and asks the workers. Gives a Snapshot."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from ryzanstein_kubectl.cluster.pages import Pages
from ryzanstein_kubectl.cluster.session import Session, together
from ryzanstein_kubectl.model.errors import CommandError
from ryzanstein_kubectl.model.pages import counters, status_page
from ryzanstein_kubectl.model.snapshot import PodKey, Snapshot, leaders
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.client import ApiError
from ryzanstein_operator.cluster.resources import CHILDREN, NODES, PODS, SERVICES, Resource
from ryzanstein_worker import contract

CHUNK: Final = 500
WORKLOADS: Final = ("Deployment", "StatefulSet")
PageT = TypeVar("PageT")


@dataclass(frozen=True)
class Scope:
    """What is looked at: one namespace or (empty) all of them; one service or (empty) all of them."""

    namespace: str
    name: str = ""

    def __str__(self) -> str:
        where = f"namespace {self.namespace}" if self.namespace else "all namespaces"
        return f"{self.name} in {where}" if self.name else where

    @property
    def selector(self) -> str:
        """The label selector of what belongs to it."""
        return f"{contract.LABEL_SERVICE}={self.name}" if self.name else contract.LABEL_SERVICE

    @property
    def worker_selector(self) -> str:
        return f"{self.selector},{contract.LABEL_ROLE}={contract.ROLE_WORKER}"


class Looker:
    """Looks again and again over one connection."""

    def __init__(self, session: Session, scope: Scope) -> None:
        self._session, self._scope, self._pages = session, scope, Pages(session)

    async def status(self) -> Snapshot:
        """Everything that `status` shows. Raises ApiError where services or pods cannot be read, and CommandError."""
        async with together() as group:
            services = group.create_task(services_of(self._session, self._scope))
            listed = group.create_task(pods_of(self._session, self._scope))
            workloads = group.create_task(self._workloads())
            known = group.create_task(nodes_of(self._session))
        pods, (nodes, note) = listed.result(), known.result()
        pages, silence = await self._ask(pods, contract.HEALTH_STATUS, status_page)
        return Snapshot(
            taken=datetime.now(UTC),
            services=services.result(),
            workloads=workloads.result(),
            pods=pods,
            nodes=nodes,
            pages=pages,
            notes=tuple(text for text in (note, silence) if text),
        )

    async def load(self) -> Snapshot:
        """What `top` shows: services, pods, and the metrics of one pod for each replica."""
        async with together() as group:
            listing = group.create_task(services_of(self._session, self._scope))
            listed = group.create_task(pods_of(self._session, self._scope))
        services, pods = listing.result(), listed.result()
        found, silence = await self._ask(leaders(pods), contract.METRICS, counters)
        notes = (silence,) if silence else ()
        return Snapshot(taken=datetime.now(UTC), services=services, pods=pods, counters=found, notes=notes)

    async def _ask(
        self, pods: tuple[Manifest, ...], path: str, parse: Callable[[str], PageT]
    ) -> tuple[dict[PodKey, PageT], str]:
        return await self._pages.read(pods, path, parse)

    async def _workloads(self) -> tuple[Manifest, ...]:
        """Nothing where they may not be read: pods then tell which revision is the newest."""
        found: list[Manifest] = []
        for resource in CHILDREN:
            if resource.kind in WORKLOADS:
                try:
                    found += await items(self._session, resource, self._scope.namespace, self._scope.selector)
                except ApiError as error:
                    if error.status not in (403, 404):
                        raise
        return tuple(found)


async def services_of(session: Session, scope: Scope) -> tuple[Manifest, ...]:
    """The InferenceServices. Raises CommandError where the named one is not there, or none can be."""
    try:
        if not scope.name:
            return tuple(await items(session, SERVICES, scope.namespace))
        return (await session.call("GET", SERVICES.path(scope.namespace, scope.name)),)
    except ApiError as error:
        if error.status != 404:
            raise
        if scope.name and f'"{scope.name}" not found' in error.sentence:
            where = f"namespace {scope.namespace}"
            sentence = f"There is no InferenceService {scope.name} in {where}; -n names another, -A shows all."
            raise CommandError(sentence) from error
        raise CommandError("This cluster knows no InferenceServices: install the Ryzanstein chart.") from error


async def pods_of(session: Session, scope: Scope) -> tuple[Manifest, ...]:
    """The worker pods, those on their way out included."""
    return tuple(await items(session, PODS, scope.namespace, scope.worker_selector))


async def nodes_of(session: Session) -> tuple[dict[str, Manifest], str]:
    """All nodes by name, or a sentence that says why they are not known."""
    try:
        found = await items(session, NODES, "")
    except ApiError as error:
        if error.status not in (401, 403):
            raise
        return {}, "The health of nodes is not shown: you may not list nodes (docs/kubectl.md)."
    return {node["metadata"]["name"]: node for node in found}, ""


async def items(
    session: Session, resource: Resource, namespace: str, selector: str = "", fields: str = ""
) -> list[Manifest]:
    """A whole list, in chunks; each item with the head that a list leaves out. Raises ApiError."""
    query = {"labelSelector": selector, "fieldSelector": fields}
    found = await _pages(session, resource.path(namespace), {key: text for key, text in query.items() if text})
    return [{"apiVersion": resource.api_version, "kind": resource.kind} | item for item in found]


async def _pages(session: Session, path: str, query: dict[str, str]) -> list[Manifest]:
    found: list[Manifest] = []
    token = ""
    while True:
        page = await session.call(
            "GET", path, query=query | {"limit": str(CHUNK)} | ({"continue": token} if token else {})
        )
        found += page["items"]
        token = page["metadata"].get("continue") or ""
        if not token:
            return found
