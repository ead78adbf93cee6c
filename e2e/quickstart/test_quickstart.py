"""Two replicas of two ranks on two nodes answer as one rank does."""

import httpx
from openai import OpenAI

from cluster_view import ClusterView
from stories import REQUEST_SECONDS, Gateway, conditions, is_true, service, until

PROMPTS = ["Return a list of", "If the optional argument", "The default value is"]


def test_two_replicas_of_two_ranks_on_two_nodes_reply_as_one_rank_does(cluster: ClusterView, gateway: Gateway) -> None:
    cluster.apply(service("pair", parallelism={"tensor": 2}, replicas=2), service("single", replicas=1))
    for name in ("pair", "single"):
        cluster.wait_ready(name, 300)

    pods = cluster.pods("pair")
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2, "the replicas share a node"
    assert sorted(cluster.service("pair")["status"]["nodes"]) == sorted(pod["spec"]["nodeName"] for pod in pods)

    for prompt in PROMPTS:
        expected = gateway.complete("single", prompt)
        assert len(expected.split()) > 3, f"not readable: {expected!r}"
        # Twice the replicas, so that each answers: the gateway takes the one with fewer requests, in turn on a tie.
        assert {gateway.complete("pair", prompt) for _ in range(4)} == {expected}


def test_the_openai_client_streams_a_chat_through_the_gateway(cluster: ClusterView, gateway: Gateway) -> None:
    cluster.apply(service("chat"))
    cluster.wait_ready("chat", 240)
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
        assert "chat" in [model.id for model in client.models.list()]
        chunks = list(
            client.chat.completions.create(
                model="chat",
                messages=[{"role": "user", "content": "What does json.dumps do?"}],
                max_tokens=32,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text) > 10
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens >= 1


def test_each_condition_is_set_from_the_first_visit_on(cluster: ClusterView) -> None:
    cluster.apply(service("fresh"))
    seen = until(60, "a status", lambda: conditions(cluster.service("fresh")))
    assert set(seen) >= {"Ready", "Serving", "Progressing", "ModelCached", "CapacityAvailable", "Degraded"}
    assert all(c["reason"] and c["message"] and c["observedGeneration"] == 1 for c in seen.values())
    cluster.wait_ready("fresh", 240)
    assert is_true(cluster.service("fresh"), "Serving")


def test_without_a_key_nothing_is_told(gateway: Gateway) -> None:
    body = {"model": "any", "prompt": "x"}
    with httpx.Client(base_url=gateway.url, timeout=REQUEST_SECONDS) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            assert client.get("/v1/models", headers=headers).status_code == 401
            assert client.post("/v1/completions", json=body, headers=headers).status_code == 401
        assert client.post("/v1/completions", json=body, headers=gateway.headers()).status_code == 404
