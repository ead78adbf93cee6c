"""Probes and metrics answer from their own thread, and say why when they fail."""

import json
import socket
import struct
import threading
import urllib.error
import urllib.request

import pytest

from ryzanstein_operator.health import Answer, HealthServer, Probes
from ryzanstein_operator.telemetry import Metrics


def ask(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize(("reason", "status"), [("", 200), ("the event loop is stuck", 503)])
def test_a_probe_says_what_is_wrong(reason: str, status: int) -> None:
    probes = Probes(lambda: Answer(reason), lambda: Answer(detail="standby"), Metrics().render)
    with HealthServer(probes, "127.0.0.1", 0) as server:
        code, body = ask(server.port, "/health/live")
        assert (code, json.loads(body)["reason"]) == (status, reason)
        assert json.loads(ask(server.port, "/health/ready")[1]) == {"status": "ok", "reason": "", "detail": "standby"}
        assert ask(server.port, "/else")[0] == 404


def test_metrics_are_the_operators_own() -> None:
    metrics = Metrics()
    metrics.reconciles.labels("done").inc()
    metrics.count_services({("Ready", "True"): 2})
    metrics.count_services({("Ready", "False"): 1})
    with HealthServer(Probes(Answer, Answer, metrics.render), "127.0.0.1", 0) as server:
        text = ask(server.port, "/metrics")[1]
    assert 'ryzanstein_operator_reconcile_total{result="done"} 1.0' in text
    assert 'ryzanstein_operator_services{condition="Ready",status="False"} 1.0' in text
    assert 'status="True"' not in text  # a condition that no service has any more is not reported
    assert "python_info" not in text


def test_a_caller_that_hangs_up_leaves_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    asked, gone = threading.Event(), threading.Event()

    def live() -> Answer:
        asked.set()
        gone.wait(20)
        return Answer("x" * 1_000_000)

    with HealthServer(Probes(live, Answer, Metrics().render), "127.0.0.1", 0) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
            caller.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            assert asked.wait(20)
        gone.set()
        assert ask(server.port, "/health/ready")[0] == 200
        threads = [one for one in threading.enumerate() if "process_request_thread" in one.name]
        for thread in threads:
            thread.join(20)
    assert "Traceback" not in capfd.readouterr().err
