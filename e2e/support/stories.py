"""What the stories share: a service's manifest, requests through the gateway, and clients that keep streaming."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

Manifest = dict[str, Any]
REQUEST_SECONDS = 120.0


def service(name: str, **spec: Any) -> Manifest:
    """An InferenceService of the demo model on CPU, small enough that several fit two cores; `spec` is laid over it.

    A limit of one CPU makes one thread a rank: more, of several ranks on two cores, would wait for each other.
    """
    base: Manifest = {
        "model": {"uri": "demo://"},
        "accelerator": "cpu",
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        "engine": {"kvCacheMemory": "64Mi", "dtype": "float32"},
    }
    return {
        "apiVersion": "ryzanstein.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {**base, **spec},
    }


def conditions(manifest: Manifest) -> dict[str, Manifest]:
    """The conditions of a service's status by type."""
    return {condition["type"]: condition for condition in manifest.get("status", {}).get("conditions", [])}


def is_true(manifest: Manifest, kind: str) -> bool:
    condition = conditions(manifest).get(kind, {})
    current = condition.get("observedGeneration") == manifest["metadata"]["generation"]
    return bool(current and condition.get("status") == "True")


@dataclass(frozen=True)
class Gateway:
    """The gateway as a client outside the cluster sees it."""

    url: str
    key: str

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def complete(self, model: str, prompt: str, **fields: Any) -> str:
        """One completion that is not streamed; raises for every other answer than 200."""
        body = {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0, **fields}
        answer = httpx.post(f"{self.url}/v1/completions", json=body, headers=self.headers(), timeout=REQUEST_SECONDS)
        if answer.status_code != 200:
            raise AssertionError(f"{answer.status_code}: {answer.text}")
        return str(answer.json()["choices"][0]["text"])

    def stream(self, client: httpx.Client, model: str, prompt: str, max_tokens: int) -> tuple[str, bool]:
        """(text, whether the stream came to its proper end: a finish reason and then [DONE])."""
        body: Manifest = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
        body["ignore_eos"] = True  # a stream that ends early shows less
        text, finished, done = "", False, False
        with client.stream("POST", f"{self.url}/v1/completions", json=body, headers=self.headers()) as answer:
            if answer.status_code != 200:
                raise AssertionError(f"{answer.status_code}: {answer.read().decode()}")
            for line in answer.iter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    done = True
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise AssertionError(f"error event: {line}")
                for choice in chunk["choices"]:
                    text += choice["text"]
                    finished = finished or choice["finish_reason"] is not None
        return text, finished and done


@dataclass
class Load:
    """What streaming clients saw."""

    requests: int = 0
    failures: list[str] = field(default_factory=list)
    texts: set[tuple[str, str]] = field(default_factory=set)


def _keep_streaming(gateway: Gateway, model: str, prompt: str, load: Load, stop: threading.Event) -> None:
    with httpx.Client(timeout=REQUEST_SECONDS) as client:
        while not stop.is_set():
            try:
                text, whole = gateway.stream(client, model, prompt, max_tokens=48)
                problem = None if whole else f"cut after {text!r}"
            except (AssertionError, httpx.HTTPError) as error:
                text, problem = "", f"{type(error).__name__}: {error}"
            load.requests += 1
            if problem:
                load.failures.append(problem)
                time.sleep(0.2)  # a failing gateway must not be flooded; the failure is counted already
            else:
                load.texts.add((prompt, text))


@contextmanager
def streaming_clients(gateway: Gateway, model: str, count: int) -> Iterator[Load]:
    """`count` threads, each with a prompt of its own, streaming one completion after another until the block ends."""
    load, stop = Load(), threading.Event()
    prompts = [f"Return the {word} of" for word in ("name", "list", "value", "size", "type", "path", "text", "time")]
    threads = [
        threading.Thread(target=_keep_streaming, args=(gateway, model, prompts[i % len(prompts)], load, stop))
        for i in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join(REQUEST_SECONDS)
        assert not any(thread.is_alive() for thread in threads), "a client is still waiting for its stream"


def until(seconds: float, what: str, check: Callable[[], Any], every: float = 0.5) -> Any:
    """The first true value of `check`, or AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if value := check():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)
