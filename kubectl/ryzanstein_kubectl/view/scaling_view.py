"""How a size follows the load, in one line."""

from collections.abc import Iterable

from rich.text import Text

from ryzanstein_kubectl.model.scaling import scaling, wanted
from ryzanstein_kubectl.model.tree import Scaling
from ryzanstein_operator.api.wire import Manifest


def scaling_cells(found: Scaling) -> tuple[Text, Text]:
    """The bounds, and the target that chose the size with what it was."""
    return Text(f"  autoscaling {found.lowest}-{found.highest}", "dim"), Text(_decided(found), "dim")


def scaling_lines(services: Iterable[Manifest]) -> tuple[str, ...]:
    """A line for each service whose size follows the load."""
    told = ((service, scaling(service)) for service in services)
    return tuple(
        f"{service['metadata']['name']}: {wanted(service)} wanted of {found.lowest}-{found.highest}"
        + (f", {words}" if (words := _decided(found)) else "")
        for service, found in told
        if found
    )


def _decided(found: Scaling) -> str:
    return f"{found.metric} {found.value} (target {found.target})" if found.metric else ""
