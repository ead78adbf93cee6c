"""One namespace with a proxy and an operator of its own: where cases run, one after another.

Knows how an operator is started, killed and started again, and how the namespace is emptied; nothing of cases.
"""

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apiserver import OPERATOR, ApiServer
from fakekubelet import FakeKubelet
from faultcases.recorder import History, Ident, Manifest, Recorder
from faultproxy import Call, FaultProxy, ProxyHost
from faultproxy.past import Past
from operator_rights import grant
from ports import free_port
from ryzanstein_operator.cluster.resources import LEASES, SERVICES
from ryzanstein_worker import contract
from zygote import Forked, Zygote

WAIT_SECONDS = 120.0
LEASE = "ryzanstein-operator"
MERGE = "application/merge-patch+json"
FOREIGN: tuple[tuple[str, Manifest], ...] = (
    ("/api/v1/namespaces/{}/configmaps", {"data": {"a": "b"}}),
    ("/api/v1/namespaces/{}/services", {"spec": {"clusterIP": "None", "selector": {"app": "foreign"}}}),
    ("/api/v1/namespaces/{}/serviceaccounts", {}),
)


class LaneError(Exception):
    """The lane itself does not do what every case stands on."""


class Lane:
    """Made ready by `open`; end it with `close`."""

    def __init__(
        self,
        name: str,
        server: ApiServer,
        kubelet: FakeKubelet,
        host: ProxyHost,
        recorder: Recorder,
        zygote: Zygote,
        logs: Path,
    ) -> None:
        self._kubelet = kubelet
        self.namespace, self.server, self.logs = name, server, logs
        self.history: History = recorder.of(name)
        self.operators: list[Forked] = []
        self.on_kill: Callable[[], None] = self.restart
        """What follows a SIGKILL by the proxy; in a thread of its own."""
        self.past = Past()
        self._zygote, self._host = zygote, host
        self.proxy = self._proxy()
        self._second: FaultProxy | None = None
        self._guest: Forked | None = None

    def _proxy(self) -> FaultProxy:
        proxy = self._host.proxy()
        proxy.killed = lambda: threading.Thread(target=self.on_kill).start()
        return proxy

    # --- the namespace ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the namespace with the operator's rights and some objects of others, and start the operator."""
        self.server.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        grant(self.server, self.namespace)
        for path, body in FOREIGN:
            self.server.request("POST", path.format(self.namespace), {"metadata": {"name": "foreign"}, **body})
        self.start()

    def close(self) -> None:
        for operator in self.operators:
            operator.end()

    def reset(self) -> None:
        """No service, no child of one, an operator that leads, and the empty route table."""
        self.proxy.disarm()
        self.proxy.catch_up()
        self.on_kill = self.restart
        if self._guest is not None:
            self._guest.end(signal.SIGTERM)  # which hands the Lease on
            self._guest = None
        if not self.operators or self.operators[-1].status is not None:
            self.start()
        for service in self.server.get(SERVICES.path(self.namespace))["items"]:
            self.delete(service["metadata"]["name"])
        if not self.history.wait(self._is_empty, WAIT_SECONDS):
            left = [" ".join(ident) for ident in self.history.now()]
            raise LaneError(f"{self.namespace} does not become empty: {left}\n{self.log_tail()}")
        time.sleep(0.3)  # the operator has seen it, too
        self.proxy.arm()
        self.history.start()
        self.log_path.write_bytes(b"")

    @staticmethod
    def _is_empty(objects: dict[Ident, Manifest]) -> bool:
        table = objects.get(("ConfigMap", contract.ROUTES_CONFIG_MAP))
        if table is None or json.loads(table["data"][contract.ROUTES_KEY])["models"]:
            return False
        labels = [one["metadata"].get("labels") or {} for one in objects.values()]
        return not any(contract.LABEL_SERVICE in own for own in labels) and all(
            kind != SERVICES.kind for kind, _ in objects
        )

    # --- what users do -----------------------------------------------------------------------------------

    def create(self, name: str, **spec: Any) -> None:
        body: Manifest = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": {"name": name}}
        body["spec"] = {"model": {"uri": "demo://"}} | spec
        self._recorded(self.server.request("POST", SERVICES.path(self.namespace), body))

    def change(self, name: str, **spec: Any) -> None:
        path = SERVICES.path(self.namespace, name)
        self._recorded(self.server.request("PATCH", path, {"spec": spec}, Content_Type=MERGE))

    def delete(self, name: str) -> None:
        """Returns once the recorder has seen it, as the others do: a later look at what is sees nothing older."""
        path = SERVICES.path(self.namespace, name)
        if (live := self.server.get(path)) is None:
            return
        self.server.request("DELETE", path)
        uid, ident = live["metadata"]["uid"], (SERVICES.kind, name)
        gone = self.history.wait(lambda now: now.get(ident, {}).get("metadata", {}).get("uid") != uid, WAIT_SECONDS)
        assert gone, f"the recorder has not seen the end of {name}"

    def _recorded(self, live: Manifest) -> None:
        ident, version = (SERVICES.kind, live["metadata"]["name"]), int(live["metadata"]["resourceVersion"])

        def seen(now: dict[Ident, Manifest]) -> bool:
            return ident in now and int(now[ident]["metadata"]["resourceVersion"]) >= version

        assert self.history.wait(seen, WAIT_SECONDS), f"the recorder has not seen {ident[1]}"

    # --- the operator --------------------------------------------------------------------------------------

    @property
    def log_path(self) -> Path:
        return self.logs / f"{self.namespace}.log"

    @property
    def operator(self) -> Forked:
        return self.operators[-1]

    def start(self, pod_name: str = "one", proxy: FaultProxy | None = None) -> Forked:
        """Another operator process, by default under the same pod name: it takes its predecessor's Lease at once."""
        through = proxy or self.proxy
        environment = {
            "KUBECONFIG": str(self.server.kubeconfig(OPERATOR, server=through.url)),
            "RYZANSTEIN_NAMESPACE": self.namespace,
            "RYZANSTEIN_WATCH_NAMESPACES": self.namespace,
            "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
            "RYZANSTEIN_GATEWAY_URL": "http://gateway",
            "RYZANSTEIN_POD_NAME": pod_name,
        }
        started = self._zygote.start(environment, self.log_path, free_port())
        self.operators.append(started)
        through.victim = started.pid
        return started

    def restart(self) -> None:
        """What a kubelet does: wait for the end of the process, start another."""
        self.operator.end()
        self.start()

    def start_if_ended(self, seconds: float) -> None:
        """A kubelet's part for an operator that ends by itself, within so many seconds."""
        deadline = time.monotonic() + seconds
        while self.operator.status is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.operator.status is not None:
            self.start()

    def kill_pods(self, service: str) -> None:
        """All workers of a service end, as those of a group do, and their kubelets start them again."""
        for (kind, name), pod in self.history.now().items():
            if kind == "Pod" and pod["metadata"].get("labels", {}).get(contract.LABEL_SERVICE) == service:
                self._kubelet.kill_pod(self.namespace, name, exit_code=70)

    def kill(self) -> None:
        """SIGKILL, and nothing follows."""
        self.operator.end(signal.SIGKILL)

    def forget_table(self) -> None:
        """As if no operator had ever been here."""
        self.server.request("DELETE", f"/api/v1/namespaces/{self.namespace}/configmaps/{contract.ROUTES_CONFIG_MAP}")
        ident = ("ConfigMap", contract.ROUTES_CONFIG_MAP)
        assert self.history.wait(lambda now: ident not in now, WAIT_SECONDS), "the recorder sees the old table"

    def start_guest(self) -> Forked:
        """A second operator, another pod, with a proxy of its own, so that their calls can be told apart."""
        self._second = self._second or self._proxy()
        self._second.arm()
        self._guest = self.start("two", self._second)
        return self._guest

    def holder(self) -> str:
        """Which pod holds the Lease."""
        lease = self.server.get(LEASES.path(self.namespace, LEASE))
        return str(lease["spec"].get("holderIdentity") or "") if lease else ""

    def calls(self) -> list[Call]:
        """Of every operator of this namespace."""
        return list(self.proxy.log) + (list(self._second.log) if self._second and self._guest else [])

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
