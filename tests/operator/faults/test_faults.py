"""Whatever goes wrong at whatever moment, the operator comes to the fault-free run's end, and then is quiet."""

from concurrent.futures import Future

import pytest

from faultcases.families import FAMILIES
from faultcases.runs import Result
from faultcases.scenarios import SCENARIOS

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(1500)]
WAIT_SECONDS = 1400.0


PAIRS = [
    (family, scenario) for family, one in FAMILIES.items() for scenario in SCENARIOS if scenario not in one.not_for
]


@pytest.mark.parametrize(("family", "scenario"), PAIRS)
def test_the_end_is_that_of_the_fault_free_run(
    family: str, scenario: str, submitted: dict[tuple[str, str], "Future[list[Future[Result]]]"]
) -> None:
    cases = submitted[family, scenario].result(WAIT_SECONDS)
    results = [case.result(WAIT_SECONDS) for case in cases]
    failed = [result for result in results if result.failures]
    assert not failed, f"{len(failed)} of {len(results)} cases\n" + "\n".join(map(str, failed[:5]))
