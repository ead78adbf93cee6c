"""Whole commands over HTTP: what they print, what they say where something may not be read, how they end."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

import operator_builders as build
from fakeapi import refuse, wait_until
from kubectl_world import ALL_WELL, TEAM, Plugin, World, ago
from ryzanstein_kubectl.cluster import pages
from ryzanstein_kubectl.commands.completion import complete_words
from ryzanstein_kubectl.commands.line import run

Manifest = dict[str, Any]


def replica_in(found: Any) -> Any:
    (service,) = found["services"]
    (replica,) = [replica for revision in service["revisions"] for replica in revision["replicas"]]
    return replica


# --- status and top ------------------------------------------------------------------------------------


def test_status_shows_the_tree_with_load_and_ranks_of_real_pages(cluster: World, plugin: Plugin) -> None:
    live = cluster.service(conditions=ALL_WELL, parallelism={"tensor": 2})
    engine = cluster.pages(cluster.pod(live, "chat-5d-aa"), ranks=2).engine
    engine.running, engine.kv_cache_usage, engine.silent = 4, 0.5, {1: 8.0}
    done = plugin("status")
    assert (done.status, done.err) == (0, "")
    for words in ("team/chat", "1/1 ready", "chat-5d-aa", "node-1", "50%", "idle, silent for 8s"):
        assert words in done.out
    assert all(line == line.rstrip() for line in done.out.splitlines())
    assert "\x1b" not in done.out


def test_status_as_json_holds_the_whole_tree(cluster: World, plugin: Plugin) -> None:
    live = cluster.service(conditions=ALL_WELL)
    cluster.pages(cluster.pod(live, "chat-5d-aa"), ranks=2).engine.waiting = 3
    cluster.service("other")
    found = plugin("status", "chat", "-o", "json").json
    replica = replica_in(found)
    assert replica["load"] == {"running": 0, "waiting": 3, "kvCacheUsage": 0.0}
    assert [rank["nodeRank"] for rank in replica["pods"][0]["ranks"]] == [0, 0]
    assert found["notes"] == []


def test_a_proxy_that_a_network_policy_blocks_is_gone_around(
    cluster: World, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PROXY_SECONDS", 0.2)
    cluster.side.proxy_blocked = True
    live = cluster.service(conditions=ALL_WELL)
    cluster.pages(cluster.pod(live, "chat-5d-aa")).engine.running = 2
    found = plugin("status", "-o", "json").json
    assert replica_in(found)["load"]["running"] == 2
    assert found["notes"] == []
    assert (cluster.side.asked["proxy"], cluster.side.asked["portforward"]) == (1, 1)


def test_load_that_may_not_be_read_is_a_dash_and_one_sentence(cluster: World, plugin: Plugin) -> None:
    cluster.side.forbidden |= {"proxy", "portforward"}
    live = cluster.service(conditions=ALL_WELL, replicas=2)
    for name in ("chat-5d-aa", "chat-5d-bb"):
        cluster.pages(cluster.pod(live, name))
    done = plugin("status")
    assert done.out.count("is not shown") == 1
    assert "The load of 2 of 2 workers is not shown: you may not ask for it" in done.out
    assert "pods/portforward" in done.out


def test_nodes_that_may_not_be_read_are_said_once(cluster: World, plugin: Plugin) -> None:
    cluster.service(conditions=ALL_WELL)
    cluster.api.faults.append(refuse("GET", "/nodes", 403, "nodes is forbidden"))
    cluster.api.faults.append(refuse("GET", "/deployments", 403, "deployments is forbidden"))
    done = plugin("status")
    assert done.status == 0
    assert done.out.count("you may not list nodes") == 1


def test_top_shows_rates_between_two_reads(cluster: World, plugin: Plugin) -> None:
    live = cluster.service(conditions=ALL_WELL)
    worker = cluster.pages(cluster.pod(live, "chat-5d-aa"))

    def serve() -> None:
        """Between any two reads; so many that one that the machine lets wait does not move their median."""
        for _ in range(20):
            worker.generate(10, first_token_seconds=0.07)

    worker.before_metrics = serve
    text = plugin("top", "--once", "--interval", "0.3").out
    (row,) = plugin("top", "chat", "--once", "--interval", "0.3", "-o", "json").json["replicas"]
    assert row["tokensPerSecond"] > 0
    assert 0.06 <= row["ttftP50Seconds"] <= 0.1
    assert (row["replica"], row["node"]) == ("chat-5d-aa", "node-1")
    assert "TTFT P50" in text
    assert " ms " in text


# --- logs ------------------------------------------------------------------------------------------------


def worker_line(message: str, at: float, **fields: object) -> str:
    stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"ts": stamp, "level": "info", "logger": "x", "message": message, **fields})


def test_logs_of_all_pods_are_merged_by_time_with_the_end_of_an_earlier_run(cluster: World, plugin: Plugin) -> None:
    live, start = cluster.service(), time.time() - 60
    ended = {"exitCode": 70, "message": "rank 1 died", "finishedAt": ago(58.0)}
    again = {"name": "worker", "ready": True, "restartCount": 1, "state": {"running": {}}}
    cluster.pod(live, "chat-a", status={"containerStatuses": [again | {"lastState": {"terminated": ended}}]})
    cluster.pod(live, "chat-b")
    for pod, message, at in (("chat-a", "first run", 0.0), ("chat-b", "second", 1.0), ("chat-a", "third", 4.0)):
        if message == "third":
            cluster.side.restart((TEAM, "chat-a"))
        cluster.side.log((TEAM, pod), worker_line(message, start + at, rank=0), nanos=int((start + at) * 1e9))
    done = plugin("logs", "chat", "-o", "json")
    found = [json.loads(line) for line in done.out.splitlines()]
    notes = [index for index, entry in enumerate(found) if entry["note"]]
    said = [entry["message"] for entry in found]
    assert said == ["first run", "second", "container worker ended with exit code 70: rank 1 died", "third"]
    assert notes == [2]
    assert found[0]["rank"] == 0
    text = plugin("logs", "chat", "--tail", "1").out
    assert "-- container worker ended with exit code 70: rank 1 died --" in text


def test_logs_are_chosen_by_rank_level_and_age(cluster: World, plugin: Plugin) -> None:
    live, now = cluster.service(), time.time()
    cluster.pod(live, "chat-a")
    for message, age, fields in (
        ("old", 900.0, {"rank": 1}),
        ("zero", 2.0, {"rank": 0}),
        ("one", 1.0, {"rank": 1}),
        ("bad", 0.5, {"level": "error"}),
    ):
        line = worker_line(message, now - age, **fields)
        cluster.side.log((TEAM, "chat-a"), line, nanos=int((now - age) * 1e9))
    for words, expected in (
        (("--since", "5m", "--rank", "1"), ["one"]),
        (("--rank", "1"), ["old", "one"]),
        (("--level", "warning"), ["bad"]),
        (("--tail", "2"), ["one", "bad"]),
    ):
        done = plugin("logs", "chat", "-o", "json", *words)
        assert [json.loads(line)["message"] for line in done.out.splitlines()] == expected


def test_logs_that_may_not_be_read_say_so(cluster: World, plugin: Plugin) -> None:
    cluster.side.forbidden.add("log")
    cluster.pod(cluster.service(), "chat-a")
    done = plugin("logs", "chat")
    assert done.out == ""
    assert 'chat-a: the log of container worker cannot be read: pods "chat-a" is forbidden' in done.err


# --- plan -------------------------------------------------------------------------------------------------


def install_operator(cluster: World) -> None:
    env = [
        {"name": "RYZANSTEIN_NAMESPACE", "value": "release"},
        {"name": "RYZANSTEIN_WATCH_NAMESPACES", "value": TEAM},
        {"name": "RYZANSTEIN_WORKER_IMAGE", "value": build.SETTINGS.worker_image},
        {"name": "RYZANSTEIN_GATEWAY_LABELS", "value": "app.kubernetes.io/component=gateway"},
        {"name": "RYZANSTEIN_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    labels = {"app.kubernetes.io/name": "ryzanstein", "app.kubernetes.io/component": "operator"}
    template = {"spec": {"containers": [{"name": "operator", "env": env}]}}
    metadata = {"name": "ryzanstein-operator", "namespace": "release", "labels": labels}
    cluster.api.put(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"template": template}}
    )


def make_children(cluster: World, live: Manifest) -> None:
    for child in build.desired(live).values():
        cluster.api.put(child)


def write(directory: Path, **spec: Any) -> str:
    path = directory / "chat.yaml"
    head = {"apiVersion": "ryzanstein.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "chat"}}
    path.write_text(yaml.safe_dump(head | {"spec": {"model": {"uri": "demo://"}} | spec}))
    return str(path)


def test_plan_shows_what_a_file_would_change_and_ends_with_1(cluster: World, plugin: Plugin, tmp_path: Path) -> None:
    install_operator(cluster)
    make_children(cluster, cluster.service())
    path = write(tmp_path, replicas=4)
    done = plugin("plan", "-f", path)
    assert (done.status, done.err) == (1, "")
    assert "change Deployment team/chat" in done.out
    assert "-  replicas: 1" in done.out
    assert "+  replicas: 4" in done.out
    found = plugin("plan", "-f", path, "-o", "json").json
    assert [change["about"] for change in found["changes"]] == [
        "Deployment team/chat",
        "ConfigMap release/ryzanstein-routes",
    ]
    assert [call for call in cluster.api.calls if call.writes] == []


def test_plan_of_a_service_that_is_as_it_should_be_is_empty_and_ends_with_0(cluster: World, plugin: Plugin) -> None:
    install_operator(cluster)
    live = cluster.service(conditions=ALL_WELL)
    make_children(cluster, live)
    cluster.api.faults.append(refuse("GET", "/configmaps", 403, "configmaps is forbidden"))
    done = plugin("plan", "chat")
    assert done.status == 0
    assert "The gateway's route table is not planned" in done.out
    assert done.out.splitlines()[-1] == "No change."


def test_a_plan_offline_asks_no_cluster(cluster: World, plugin: Plugin, tmp_path: Path) -> None:
    done = plugin("plan", "-f", write(tmp_path), "--offline")
    assert (done.status, cluster.api.calls) == (1, [])
    assert "create Deployment default/chat" in done.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "Give either the NAME of a service or -f FILE."),
        (("chat", "-f", "x.yaml"), "Give either"),
        (("chat", "--offline"), "--offline needs -f FILE."),
        (("-f", "/nowhere.yaml"), "No such file"),
        (("none",), "There is no InferenceService none in namespace team"),
        (("chat",), "No operator was found that serves namespace team. Name its own namespace with"),
    ],
)
def test_a_plan_that_cannot_be_made_says_why_and_ends_with_2(
    cluster: World, plugin: Plugin, words: tuple[str, ...], sentence: str
) -> None:
    cluster.service()
    done = plugin("plan", *words)
    assert (done.status, done.out) == (2, "")
    assert sentence in done.err


# --- drain -------------------------------------------------------------------------------------------------


def test_drain_asks_again_waits_for_the_streams_and_the_replacement(cluster: World, plugin: Plugin) -> None:
    live = cluster.service(replicas=2)
    first = cluster.pod(live, "chat-5d-aa")
    cluster.pod(live, "chat-5d-bb")
    cluster.pages(first).engine.running = 2
    asked: list[str] = []

    def evict(pod: tuple[str, str]) -> tuple[int, str]:
        asked.append(pod[1])
        if len(asked) == 1:
            return 429, "Cannot evict pod as it would violate the pod's disruption budget."
        going = cluster.api.get("Pod", *pod)
        assert going is not None
        going["metadata"]["deletionTimestamp"] = ago(0)
        cluster.api.put(going)
        finisher.submit(finish, cluster.side.asked.get("proxy", 0))
        return 201, ""

    def finish(asked_before: int) -> None:
        # Each look asks both pods, so with the third question one look since then is over and shown.
        wait_until(lambda: cluster.side.asked["proxy"] > asked_before + 2, 40, "a look at the pod that goes")
        cluster.api.delete("Pod", TEAM, "chat-5d-aa")
        cluster.pod(live, "chat-5d-cc", node="node-2")

    cluster.side.evict = evict
    with ThreadPoolExecutor(1) as finisher:
        done = plugin("drain", "chat/aa", "-o", "json")
    events = [(event["event"], event["message"]) for event in map(json.loads, done.out.splitlines())]
    assert done.status == 0
    assert asked == ["chat-5d-aa", "chat-5d-aa"]
    assert "disruption budget" in events[0][1]
    assert [name for name, _ in events if name != "waiting"] == ["evicted", "gone", "replaced"]
    assert ("waiting", "team/chat-5d-aa: 2 requests left") in events


def test_a_drain_that_takes_too_long_says_what_stands(cluster: World, plugin: Plugin) -> None:
    cluster.pod(cluster.service(), "chat-5d-aa")
    cluster.side.evict = lambda pod: (429, "Cannot evict pod")
    done = plugin("drain", "pod/chat-5d-aa", "--timeout", "1s")
    assert done.status == 1
    assert "The drain took longer than 1s. 0 of 1 replicas are drained." in done.err
    assert "may not go yet: Cannot evict pod" in done.out
    assert "only replica that is ready" in done.out


def test_a_node_is_cordoned_and_holds_no_replica_in_the_end(cluster: World, plugin: Plugin) -> None:
    cluster.api.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}, "spec": {}})
    live = cluster.service(replicas=2)
    cluster.pod(live, "chat-5d-aa", node="node-1")
    cluster.pod(live, "chat-5d-bb", node="node-2")
    gone: list[str] = []

    def evict(pod: tuple[str, str]) -> tuple[int, str]:
        gone.append(pod[1])
        cluster.api.delete("Pod", *pod)
        cluster.pod(live, "chat-5d-cc", node="node-3")
        return 201, ""

    cluster.side.evict = evict
    done = plugin("drain", "node/node-1")
    assert (done.status, gone) == (0, ["chat-5d-aa"])
    node = cluster.api.get("Node", "", "node-1")
    assert node is not None
    assert node["spec"]["unschedulable"] is True
    assert "kubectl uncordon node-1 undoes it" in done.out


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("pod/none", "There is no pod none in namespace team."),
        ("node/none", "There is no node none."),
        ("none/x", "There is no InferenceService none"),
        ("pod/stranger", "The pod stranger belongs to no InferenceService"),
        ("chat/x", "chat has no replica x; its replicas: none."),
    ],
)
def test_what_is_not_there_cannot_be_drained(cluster: World, plugin: Plugin, target: str, sentence: str) -> None:
    cluster.service()
    metadata = {"name": "stranger", "namespace": TEAM}
    cluster.api.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": {}})
    done = plugin("drain", target)
    assert (done.status, done.out) == (1, "")
    assert sentence in done.err


# --- errors and completion ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message", "sentence"),
    [
        (403, "pods is forbidden", "pods is forbidden; docs/kubectl.md lists the rights"),
        (401, "Unauthorized", "log in again, or choose another --context"),
        (422, "no", "The API server answers 422: no"),
    ],
)
def test_a_refusal_says_what_to_do(cluster: World, plugin: Plugin, code: int, message: str, sentence: str) -> None:
    cluster.api.faults.append(refuse("GET", "/pods", code, message))
    done = plugin("status")
    assert (done.status, done.out) == (1, "")
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("words", [("status",), ("status", "chat"), ("logs", "chat")])
def test_a_cluster_without_the_custom_resource_is_told_to_install_it(
    cluster: World, plugin: Plugin, words: tuple[str, ...]
) -> None:
    cluster.api.faults.append(refuse("GET", "/inferenceservices", 404, "404 page not found"))
    assert "install the Ryzanstein chart" in plugin(*words).err


def test_a_kubeconfig_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    broken = tmp_path / "broken"
    broken.write_text("clusters: 3")
    for path, sentence in ((tmp_path / "none", "There is no kubeconfig at"), (broken, "cannot be used")):
        assert run(["status", "--kubeconfig", str(path)]) == 1
        found = capsys.readouterr().err
        assert sentence in found
        assert str(path) in found


def test_words_are_completed_and_names_are_asked_for(cluster: World, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.service("chat")
    cluster.service("other")
    config = ["--kubeconfig", str(cluster.kubeconfig)]
    assert complete_words(["st"]) == ["status", ":4"]
    assert complete_words(["logs", "--fo"]) == ["--follow", ":4"]
    assert complete_words(["logs", *config, "ch"]) == ["chat", ":4"]
    assert complete_words(["status", "--kubeconfig", "/nowhere", ""]) == [":4"]
    assert complete_words(["nonsense", ""]) == [":4"]
