"""The OpenAPI document as schemathesis reads it: whatever it allows, and much that it does not, gets no 5xx and answers
of the shape that it promises."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from worker_process import MODEL_NAME, WorkerProcess

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

schema = schemathesis.openapi.from_path(DOCUMENT)
bounded = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,  # the same requests each time: what is found once is found again
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@schema.parametrize()
@bounded
def test_no_request_gets_a_5xx_or_an_answer_of_another_shape(case: schemathesis.Case, worker: WorkerProcess) -> None:
    response = case.call(base_url=worker.api, timeout=30)
    case.validate_response(response, checks=CHECKS)


@schema.include(method="POST").parametrize()
@settings(bounded, max_examples=10)
def test_nor_does_one_that_names_the_model_and_little_else(case: schemathesis.Case, worker: WorkerProcess) -> None:
    """Most generated bodies name a model that is not there and go no further: these go to the engine."""
    if isinstance(case.body, dict):
        body: dict[str, Any] = case.body
        body |= {"model": MODEL_NAME, "max_tokens": 2, "n": 1, "min_tokens": 0, "stream": False, "stream_options": None}
        body.pop("max_completion_tokens", None)
    response = case.call(base_url=worker.api, timeout=30)
    case.validate_response(response, checks=CHECKS)
