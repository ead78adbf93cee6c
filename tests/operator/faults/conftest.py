"""The campaign of fault cases: all that are selected run at once, and their count is printed."""

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

import figures
from faultcases.campaign import Tally, campaign
from faultcases.runs import Result

TALLY = Tally()
figures.tell("the operator under faults", lambda: TALLY.lines() if TALLY.cases else ())
Submitted = dict[tuple[str, str], "Future[list[Future[Result]]]"]


@pytest.fixture(scope="session")
def submitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submitted]:
    """The cases of every selected test, already running."""
    wanted = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    pairs = [(params["family"], params["scenario"]) for params in wanted if "family" in params]
    with campaign(tmp_path_factory.mktemp("faults"), TALLY) as running:
        yield {pair: running.submit(*pair) for pair in pairs}
