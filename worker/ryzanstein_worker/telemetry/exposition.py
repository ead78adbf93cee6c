"""What a scraper gets: OpenMetrics, with exemplars, where it asks for it, else Prometheus' text format."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder


@dataclass(frozen=True)
class Exposition:
    """A page of metrics."""

    content_type: str
    body: bytes


def expose(registry: CollectorRegistry, accept: str = "") -> Exposition:
    """All that a registry has at this moment. `accept`: the request's header, in which nonsense asks for nothing."""
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:  # the library compares a version that is none with one that is
        encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
    return Exposition(content_type, encode(registry))
