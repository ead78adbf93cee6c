"""The API server refuses nonsense with a sentence, and nothing is created for it."""

import pytest

from cluster_view import ClusterView, KubectlError
from refused_specs import ACCEPTED, REFUSED, Case


def test_every_nonsensical_spec_is_refused_with_its_sentence(cluster: ClusterView) -> None:
    assert len(REFUSED) >= 15
    wrong = []
    for case in REFUSED:
        try:
            cluster.apply(case.manifest)
            wrong.append(f"{case.title}: accepted")
        except KubectlError as error:
            # A bound of the schema speaks in the API server's words, which `refused_specs` does not give.
            if not case.schema and case.sentence not in str(error):
                wrong.append(f"{case.title}: {error}")
    assert wrong == []
    assert cluster.items("rzi,deployments", "") == []


@pytest.mark.parametrize("case", ACCEPTED[:1], ids=lambda case: case.title)
def test_a_field_that_does_not_exist_is_refused(cluster: ClusterView, case: Case) -> None:
    manifest = case.manifest
    manifest["spec"] = {**manifest["spec"], "podTemplate": {"metadata": {}}}
    with pytest.raises(KubectlError, match=r'unknown field "(spec\.)?podTemplate"'):
        cluster.apply(manifest)
