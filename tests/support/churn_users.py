"""What users and accidents do to one namespace, each call seen by the recorder before the next.

Knows the API; draws nothing and judges nothing.
"""

import contextlib
import json
import signal
import time
import urllib.error
from collections.abc import Iterator
from typing import Any

from churn_oracles import Objects
from fakekubelet import FakeKubelet
from faultcases.lane import Lane
from faultcases.recorder import Manifest
from ryzanstein_operator.cluster.heartbeat import version_of
from ryzanstein_operator.cluster.resources import CHILDREN, PODS, SERVICES, Resource
from ryzanstein_operator.desired import names as child_names
from ryzanstein_worker import contract
from spec_strategies import Spec

MERGE = "application/merge-patch+json"
WITNESS_SECONDS = 60.0
DAMAGE: tuple[tuple[str, Manifest | None], ...] = (
    ("Deployment", None),
    ("Deployment", {"spec": {"replicas": 5}}),
    ("Deployment", {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}),
    ("Deployment", {"metadata": {"labels": {contract.LABEL_SERVICE: None}}}),
    ("Service", None),
    ("Service", {"spec": {"selector": {"app": "another"}}}),
    ("Service", {"metadata": {"labels": {contract.LABEL_SERVICE: "another"}}}),
    ("ServiceAccount", None),
    ("ServiceAccount", {"metadata": {"labels": None}}),
    ("NetworkPolicy", None),
    ("NetworkPolicy", {"spec": {"ingress": [{}]}}),
    ("PodDisruptionBudget", None),
    ("PodDisruptionBudget", {"metadata": {"annotations": {"a": "b"}, "labels": {"app.kubernetes.io/name": "x"}}}),
)
"""What somebody does to a child: None deletes it."""
_RESOURCES = {resource.kind: resource for resource in CHILDREN}


class Users:
    """Everybody who has rights in the namespace. specs: what the services are asked to be, as the API
    server gave it."""

    def __init__(self, lane: Lane, kubelet: FakeKubelet) -> None:
        self.lane, self.kubelet = lane, kubelet
        self.specs: dict[str, Spec] = {}

    # --- services --------------------------------------------------------------------------------------

    def create(self, name: str, spec: Spec) -> None:
        """Raises urllib.error.HTTPError, as do all of these."""
        self._take(name, self._request("POST", SERVICES.path(self.lane.namespace), self.body(name, spec)))

    def patch(self, name: str, change: Spec) -> None:
        """A merge patch of the spec."""
        self._take(name, self._request("PATCH", self._path(name), {"spec": change}, kind=MERGE))

    def put(self, name: str, spec: Spec) -> None:
        """The whole spec; again where the status has been written in between."""
        while True:
            try:
                self._take(name, self._request("PUT", self._path(name), self.live(name) | {"spec": spec}))
                return
            except urllib.error.HTTPError as error:
                if error.code != 409:
                    raise
                error.close()

    def scale(self, name: str, replicas: int) -> None:
        self._request("PATCH", f"{self._path(name)}/scale", {"spec": {"replicas": replicas}}, kind=MERGE)
        self._take(name, self.live(name))

    def delete(self, name: str) -> None:
        self.lane.delete(name)
        del self.specs[name]
        self._witness(SERVICES, name)

    def live(self, name: str) -> Manifest:
        live: Manifest = self._request("GET", self._path(name))
        return live

    @staticmethod
    def body(name: str, spec: Spec) -> Manifest:
        return {
            "apiVersion": SERVICES.api_version,
            "kind": SERVICES.kind,
            "metadata": {"name": name},
            "spec": spec,
        }

    def refusal(self, body: Manifest) -> str:
        """The sentence with which `body` is not created."""
        try:
            self._request("POST", SERVICES.path(self.lane.namespace), body)
        except urllib.error.HTTPError as error:
            return said(error, 409, 422)
        raise AssertionError(f"this was taken: {body}")

    # --- what belongs to them, and what does not ------------------------------------------------------------

    def damage(self, name: str, kind: str, change: Manifest | None) -> None:
        """Do it to the child, if it is there."""
        resource, child = _RESOURCES[kind], child_names.child_name(kind, name)
        path = resource.path(self.lane.namespace, child)
        with _fine(404):
            if change is None:
                self._request("DELETE", path)
            else:
                self._request("PATCH", path, change, kind=MERGE)
        self._witness(resource, child)

    def take_name(self, name: str, kind: str) -> None:
        """Make an object of the name that a child of `name` will need; not if one is still there."""
        spec = {"spec": {"ports": [{"port": 80}]}} if kind == "Service" else {}
        body = {"metadata": {"name": child_names.child_name(kind, name)}, **spec}
        with _fine(409):
            self._request("POST", _RESOURCES[kind].path(self.lane.namespace), body)

    def lose_pod(self, which: int, *, gently: bool) -> bool:
        """One of the pods is deleted, or its container ends. False where there is none."""
        pods = sorted(name for (kind, name) in self.lane.history.now() if kind == "Pod")
        if not pods:
            return False
        name = pods[which % len(pods)]
        if gently:
            with _fine(404):
                self._request("DELETE", PODS.path(self.lane.namespace, name))
        else:
            with contextlib.suppress(KeyError):  # it has not started, or has ended
                self.kubelet.kill_pod(self.lane.namespace, name, exit_code=70, restart_after=0.1)
        self._witness(PODS, name)
        return True

    def restart_operator(self, number: signal.Signals) -> None:
        self.lane.operator.end(number)
        self.lane.start()

    # --- calls -------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return SERVICES.path(self.lane.namespace, name)

    def _request(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        return self.lane.server.request(method, path, body, Content_Type=kind)

    def _take(self, name: str, live: Manifest) -> None:
        self.specs[name] = live["spec"]
        self._witness(SERVICES, name)

    def _witness(self, resource: Resource, name: str) -> None:
        """Wait until the recorder has seen what was just done: else what it shows might be at rest from before."""
        deadline = time.monotonic() + WITNESS_SECONDS
        while True:  # it may have gone, or come back, since it was read
            live = self.lane.server.get(resource.path(self.lane.namespace, name))
            if self.lane.history.wait(lambda objects, live=live: _shows(objects, resource, name, live), 0.5):  # type: ignore[misc]  # bound
                return
            assert time.monotonic() < deadline, f"{resource.kind} {name} was not recorded"


def _shows(objects: Objects, resource: Resource, name: str, live: Manifest | None) -> bool:
    found = objects.get((resource.kind, name))
    if found is None or live is None:
        return found is None and live is None
    return version_of(found) >= version_of(live)


def said(error: urllib.error.HTTPError, *codes: int) -> str:
    """The sentence of a refusal with one of these statuses; any other is raised."""
    with error:
        if error.code not in codes:
            raise error
        return str(json.load(error)["message"])


@contextlib.contextmanager
def _fine(code: int) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        said(error, code)
