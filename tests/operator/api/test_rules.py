"""What may not be asked for is refused with a sentence; the API server's verdicts are in test_apiserver."""

import copy

import pytest

from refused_specs import ACCEPTED, REFUSED, Case
from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import SpecError, parse


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.title)
def test_a_wrong_spec_is_refused_with_one_sentence_that_names_the_field(case: Case) -> None:
    with pytest.raises(SpecError) as refused:
        parse(InferenceService, case.manifest)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert "pydantic" not in sentence
    if not case.schema:
        assert case.sentence in sentence
    fields = [*case.spec, "metadata.name"]
    assert any(name in sentence for name in fields)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.title)
def test_a_right_spec_is_taken_and_left_as_it_was(case: Case) -> None:
    manifest = case.manifest
    before = copy.deepcopy(manifest)
    service = parse(InferenceService, manifest)
    assert manifest == before
    assert service.metadata.name == case.name


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"model": {"uri": "demo://"}, "adapters": []}, "spec.adapters: is not a field of this version"),
        ({"model": {"uri": "demo://"}, "autoscaling": {"maxReplicas": 2}}, "spec.autoscaling.targets: is required"),
        ({"model": {"uri": "demo://", "quantization": "int8"}}, "spec.model.quantization: is not a field"),
        ({"model": {}}, "spec.model.uri: is required"),
        ({"model": {"uri": "demo://"}, "replicas": "2"}, "spec.replicas: "),
        ({"model": {"uri": "demo://"}, "replicas": True}, "spec.replicas: "),
        ({"model": {"uri": "demo://"}, "resources": {"limits": {"cpu": 0.5}}}, "spec.resources.limits.cpu"),
        (None, "spec: "),
    ],
)
def test_what_the_schema_does_not_know_is_refused(spec: object, sentence: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(InferenceService, {"metadata": {"name": "chat"}, "spec": spec})
    assert str(refused.value).startswith(sentence)
