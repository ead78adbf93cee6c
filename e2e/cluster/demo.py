"""The demo: applies the quickstart's sample, tells how it becomes ready, streams a completion, prints what to paste."""

import http.client
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import release
from console import Failure, ask, run, say, step
from lab import NAMESPACE, RELEASE, ROOT, Lab

SAMPLE = ROOT / "manifests/samples/demo-two-replicas.yaml"
MODEL = "demo"
PROMPT = "If the optional argument"
READY_SECONDS = 300
_HOPELESS = ("ModelUnusable",)  # reasons that no waiting mends


def show(lab: Lab, connection: release.Connection, offline: bool) -> None:
    """Runs the demo on the release that is there."""
    log = lab.log("demo")
    log.unlink(missing_ok=True)
    with step(f"InferenceService {MODEL} from {SAMPLE.relative_to(ROOT)}"):
        run(["kubectl", "apply", "--server-side", "--namespace", NAMESPACE, "-f", SAMPLE], log=log)
        _wait_until_ready(lab)
    key = release.default_key()
    say(f"\n{PROMPT!r} goes on (temperature 0, streamed from {connection.gateway}):\n")
    _stream(connection.gateway, key)
    _farewell(lab, connection, offline)


def _conditions() -> tuple[dict[str, dict[str, Any]], bool]:
    """The conditions by type, and whether the present spec is served by all its replicas."""
    text = ask(["kubectl", "get", "inferenceservice", MODEL, "--namespace", NAMESPACE, "-o", "json"])
    if text is None:
        return {}, False
    service = json.loads(text)
    conditions = {condition["type"]: condition for condition in service.get("status", {}).get("conditions", [])}
    generation = service["metadata"]["generation"]
    wanted = {"Ready": "True", "Progressing": "False"}  # Ready alone may still speak of the revision before
    done = all(
        conditions.get(name, {}).get("status") == status and conditions[name].get("observedGeneration") == generation
        for name, status in wanted.items()
    )
    return conditions, done


def _wait_until_ready(lab: Lab) -> None:
    """Prints each condition as it changes until Ready is True for the present spec."""
    deadline = time.monotonic() + READY_SECONDS
    seen: dict[str, tuple[str, str, str]] = {}
    hopeless_since: float | None = None
    while True:
        conditions, ready = _conditions()
        for name, condition in conditions.items():
            told = (condition["status"], condition.get("reason", ""), condition.get("message", ""))
            if seen.get(name) != told:
                seen[name] = told
                say(f"   {name}={told[0]} ({told[1]}) {told[2]}".rstrip())
        if ready:
            return
        broken = conditions.get("Degraded", {})
        hopeless_since = hopeless_since or time.monotonic() if broken.get("reason") in _HOPELESS else None
        # Not at once: the word may still be of the revision before.
        if hopeless_since and time.monotonic() - hopeless_since > 30:
            raise Failure(f"InferenceService {MODEL} cannot become Ready: {broken['message']}", _autopsy(lab))
        if time.monotonic() > deadline:
            raise Failure(f"InferenceService {MODEL} is not Ready after {READY_SECONDS} s", _autopsy(lab))
        time.sleep(0.5)


def _autopsy(lab: Lab) -> Path:
    base = ["kubectl", "--namespace", NAMESPACE]
    log = lab.log("demo")
    with log.open("a") as output:
        for words in (
            ["get", "pods", "-o", "wide"],
            ["logs", f"deployment/{release.DEPLOYMENTS[0]}", "--all-pods=true", "--tail=10"],
            ["logs", f"deployment/{MODEL}", "--tail=20"],
        ):
            output.write(f"$ kubectl {' '.join(words)}\n{ask([*base, *words]) or ''}")
    return log


def _stream(gateway: str, key: str) -> None:
    """Prints a completion's tokens as they arrive, and their number and pace."""
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 64, "temperature": 0, "stream": True}
    started = time.monotonic()
    count = 0
    print(f"  {PROMPT}", end="", flush=True)
    for text in _tokens(gateway, key, body):
        count += 1
        print(text.replace("\n", "\n  "), end="", flush=True)
    print()
    if count == 0:
        raise Failure("the gateway streamed no token")
    say(f"\n{count} pieces in {time.monotonic() - started:.2f} s")


def _tokens(gateway: str, key: str, body: dict[str, object]) -> Iterator[str]:
    """The pieces of text of a streamed completion (server-sent events)."""
    place = urlsplit(gateway)
    client = http.client.HTTPConnection(place.hostname or "127.0.0.1", place.port, timeout=60)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    deadline = time.monotonic() + 30
    while True:
        try:
            client.request("POST", "/v1/completions", json.dumps(body), headers)
            answer = client.getresponse()
        except OSError as error:
            raise Failure(f"the gateway at {gateway} does not answer: {error}") from error
        if answer.status == 200:
            break
        words = answer.read().decode(errors="replace")
        # The gateway learns of the model by a watch of its own, a moment after the status says Ready.
        if answer.status not in (404, 503) or time.monotonic() > deadline:
            raise Failure(f"the gateway answered {answer.status}: {words}")
        time.sleep(0.2)
    for line in answer:
        data = line.decode().strip().removeprefix("data:").strip()
        if data and data != "[DONE]":
            event = json.loads(data)
            if "error" in event:
                raise Failure(f"the stream ended with an error: {event['error']}")
            yield from (choice["text"] for choice in event["choices"] if choice["text"])
    client.close()


def _farewell(lab: Lab, connection: release.Connection, offline: bool) -> None:
    secret = f"kubectl get secret {RELEASE}-default-key -n {NAMESPACE} -o jsonpath='{{.data.key}}'"
    body = json.dumps({"model": MODEL, "prompt": PROMPT, "max_tokens": 64, "temperature": 0, "stream": True})
    lines = []
    own = [name for name in ("kubectl", "helm") if not shutil.which(name, path=_path_of_the_user(lab))]
    if own:
        lines.append(f"export PATH={lab.bin}:$PATH    # built here: {', '.join(own)}")
    if offline:
        lines.append(f"export DOCKER_HOST=unix://{lab.docker_socket}    # the private Docker daemon, if you need it")
    lines += [
        f"KEY=$({secret} | base64 -d)",
        f'curl -N {connection.gateway}/v1/completions -H "Authorization: Bearer $KEY" '
        f"-H 'Content-Type: application/json' -d {shlex.quote(body)}",
        f"kubectl get inferenceservices,pods -n {NAMESPACE}",
        f"kubectl port-forward -n {NAMESPACE} deployment/{MODEL} 8001 >/dev/null & sleep 1",
        "curl -s 127.0.0.1:8001/metrics | grep ^ryzanstein    # a worker's; gateway and operator have theirs too",
    ]
    say("\nTry it (context " + connection.context + " is in your kubeconfig):\n\n" + "\n".join(lines))
    say(
        f"""
OPENAI_API_KEY=$KEY OPENAI_BASE_URL={connection.gateway}/v1 python3 - <<'PY'   # pip install openai
from openai import OpenAI
for event in OpenAI().completions.create(model={MODEL!r}, prompt={PROMPT!r}, max_tokens=64, stream=True):
    print(event.choices[0].text, end="", flush=True)
PY

make demo-down removes all of it."""
    )


def _path_of_the_user(lab: Lab) -> str:
    return ":".join(place for place in os.environ["PATH"].split(":") if place != str(lab.bin))
