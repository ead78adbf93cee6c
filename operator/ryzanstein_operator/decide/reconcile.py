"""From what is wanted and what is seen to what is to be done. Level-triggered: it never asks what has happened."""

from collections.abc import Sequence
from datetime import datetime

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import Observed
from ryzanstein_operator.decide.plan import Plan
from ryzanstein_operator.settings import Settings


def reconcile(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """The Plan for one InferenceService. `now` is aware, in UTC. Never raises on what a user wrote.

    A service with a deletion timestamp gets an empty Plan: owner references take its children.
    """
    raise NotImplementedError


def reconcile_routes(services: Sequence[Manifest], live: Manifest | None, settings: Settings) -> Plan:
    """The Plan for the gateway's route table, one ConfigMap over all services; `live` as it stands in the cluster.

    `services` is every InferenceService watched, as the API server returned them.
    """
    raise NotImplementedError
