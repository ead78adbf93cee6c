"""All dashboards there are."""

from typing import Final

from ryzanstein_dashboards.control import CONTROL
from ryzanstein_dashboards.fleet import FLEET
from ryzanstein_dashboards.gateway import GATEWAY
from ryzanstein_dashboards.model import Dashboard
from ryzanstein_dashboards.service import SERVICE
from ryzanstein_dashboards.worker import WORKER

PAGES: Final = (FLEET, SERVICE, WORKER, GATEWAY, CONTROL)


def file_name(page: Dashboard) -> str:
    """What a page's file is called."""
    return f"{page.uid.removeprefix('ryzanstein-')}.json"
