"""The gateway's route table over all services. Pure."""

from collections.abc import Sequence
from typing import Final

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest, SpecError, parse
from ryzanstein_operator.decide.claims import owners
from ryzanstein_operator.decide.compare import differences
from ryzanstein_operator.decide.plan import Apply, Plan
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.gateway import route, routes_config_map
from ryzanstein_operator.desired.route_table import unpack
from ryzanstein_operator.settings import Settings

_NAMED: Final = 10
"""Models that are named where the table is logged."""


def reconcile_routes(services: Sequence[Manifest], live: Manifest | None, settings: Settings) -> Plan:
    """The Plan for the gateway's route table, one ConfigMap over all services; `live` as it stands in the cluster.

    `services` is every InferenceService watched, as the API server returned them. One whose spec cannot be run keeps
    the row it has: its workers are left running too.
    """
    standing = _standing_rows(live)
    rows = [row for service in owners(services).values() if (row := _row(service, standing)) is not None]
    desired = routes_config_map(rows, settings)
    if live is None:
        return Plan((Apply(desired, None, _words(rows)),))
    if next(differences(live, desired), None) is None:
        return Plan()
    return Plan((Apply(desired, live["metadata"]["uid"], _words(rows)),))


def _row(service: Manifest, standing: dict[tuple[str, str], Manifest]) -> Manifest | None:
    try:
        return route(parse(InferenceService, service))
    except SpecError:
        metadata = service["metadata"]
        return standing.get((metadata["namespace"], names.workers_service(metadata["name"])))


def _standing_rows(live: Manifest | None) -> dict[tuple[str, str], Manifest]:
    """The rows of the live table by namespace and Service; none if it cannot be read (it is then written anew)."""
    return {(row["namespace"], row["service"]): row for row in unpack(live or {})}


def _words(rows: list[Manifest]) -> str:
    models = sorted(row["model"] for row in rows)
    more = f" and {len(models) - _NAMED} more" if len(models) > _NAMED else ""
    return f"{len(rows)} model{'' if len(rows) == 1 else 's'}: {', '.join(models[:_NAMED]) or 'none'}{more}"
