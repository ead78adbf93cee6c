"""Whatever users do to their services, and whatever breaks meanwhile, the end depends on the last spec alone."""

import contextlib
import os
import queue
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings

from apiserver import running
from churn import draw_sequences
from churn_play import Play, Stage, Step, Tally, play
from churn_users import Users, said
from fakekubelet import fake_kubelet
from faultcases.lane import Lane
from faultcases.recorder import Recorder
from faultproxy import ProxyHost
from operator_rights import install_crd
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.settings import Settings
from spec_strategies import Spec, refusal, specs
from zygote import zygote

LANES = int(os.environ.get("RYZANSTEIN_CHURN_LANES", "5"))
SEQUENCES = int(os.environ.get("RYZANSTEIN_CHURN_SEQUENCES", "20"))
STEPS = 8
ACTIONS = {name for name in vars(Play) if not name.startswith("_")} - {"judge"}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, tally: Tally) -> Iterator[list[Stage]]:
    """Namespaces with an operator each, on one control plane."""
    directory = tmp_path_factory.mktemp("churn")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(directory / "apiserver"))
        install_crd(server)
        server.start_controllers()
        devices = {"nvidia.com/gpu": 1000}
        nodes = fake_kubelet(server, nodes=3, slots=10_000, allocatable=devices, labels=lambda _: {"pool": "a"})
        kubelet = stack.enter_context(nodes)
        recorder = stack.enter_context(Recorder(server).running())
        parent = stack.enter_context(zygote())
        host = stack.enter_context(ProxyHost(server).running())
        made = []
        for number in range(LANES):
            lane = Lane(f"churn-{number:02}x", server, kubelet, host, recorder, parent, directory)
            lane.open()
            stack.callback(lane.close)
            made.append(Stage(lane, kubelet, settings_of(lane.namespace), tally))
        yield made


def settings_of(namespace: str) -> Settings:
    """The operator's settings in a lane."""
    return Settings.from_environment(
        {
            "RYZANSTEIN_NAMESPACE": namespace,
            "RYZANSTEIN_WATCH_NAMESPACES": namespace,
            "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
            "RYZANSTEIN_GATEWAY_URL": "http://gateway",
        }
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(specs(nodes=(1, 2)))
def test_what_is_drawn_as_valid_is_valid(spec: Spec) -> None:
    assert refusal("chat", None, spec) == ""


def test_the_sequences_are_the_same_each_time() -> None:
    first, second = ([list(map(str, one)) for one in draw_sequences(3, STEPS)] for _ in range(2))
    assert first == second


@pytest.mark.apiserver
@pytest.mark.timeout(400)
def test_only_the_resource_version_keeps_a_status_from_an_object_made_anew(stages: list[Stage]) -> None:
    """Why the operator names it: the API server takes a status for another UID, on a custom resource."""
    lane = stages[0].lane
    users = Users(lane, stages[0].kubelet)
    lane.reset()
    lane.operator.end()
    users.create("chat", {"model": {"uri": "demo://"}})
    former = users.live("chat")["metadata"]
    users.delete("chat")
    users.create("chat", {"model": {"uri": "demo://"}})
    path = f"{SERVICES.path(lane.namespace, 'chat')}/status"
    body = users.body("chat", {}) | {"status": {"observedGeneration": 9}}
    del body["spec"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        lane.server.apply(path, body | {"metadata": {"name": "chat", "resourceVersion": former["resourceVersion"]}})
    assert "has been modified" in said(refused.value, 409)
    taken = lane.server.apply(path, body | {"metadata": {"name": "chat", "uid": former["uid"]}})
    assert (taken["status"]["observedGeneration"], taken["metadata"]["uid"] != former["uid"]) == (9, True)


@pytest.mark.apiserver
@pytest.mark.timeout(1800)
def test_random_sequences_end_as_their_specs_say(stages: list[Stage], tally: Tally) -> None:
    free: queue.SimpleQueue[Stage] = queue.SimpleQueue()
    for stage in stages:
        free.put(stage)

    def play_one(steps: tuple[Step, ...]) -> str:
        stage = free.get()
        try:
            play(stage, steps)
        except AssertionError as error:
            return str(error)
        finally:
            free.put(stage)
        return ""

    drawn = draw_sequences(SEQUENCES, STEPS)
    assert {step.action for one in drawn for step in one} == ACTIONS, "the sequences leave out a kind of step"
    with ThreadPoolExecutor(len(stages)) as pool:
        failed = [words for words in pool.map(play_one, drawn) if words]
    assert not failed, "\n\n".join(failed)
    assert tally.judged == tally.sequences > 0
