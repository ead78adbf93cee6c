"""What the stories stand on: a cluster that `make e2e` brought up, a namespace a test, evidence after a failure."""

import base64
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

import chaos
from cluster_view import ClusterView, Connection, Release
from stories import Gateway, until

RELEASE = "ryzanstein"
EVIDENCE_CHARACTERS = 20_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    stories = [item for item in items if "e2e" in item.path.relative_to(item.config.rootpath).parts]
    for item in stories:
        item.add_marker(pytest.mark.e2e)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1800))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Objects, events and logs go into the report of a test that failed, while they still exist."""
    report = yield
    views = [view for view in getattr(item, "funcargs", {}).values() if isinstance(view, ClusterView)]
    if report.failed:
        report.sections += [("evidence", evidence(view)) for view in views]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the clients saw while something broke: figures that one wants of a passed test, too."""
    if chaos.REPORT:
        terminalreporter.section("32 streaming clients under faults")
        for line in chaos.REPORT:
            terminalreporter.line(line)


def evidence(view: ClusterView) -> str:
    """What one looks at first, each part cut to its last characters; a part that cannot be had says why."""
    release = Release(view.connection, RELEASE)
    asked = [
        (view, ("get", "rzi,deployments,replicasets,pods,services,endpointslices", "-o", "wide")),
        (view, ("get", "rzi", "-o", "yaml")),
        (view, ("get", "events", "--sort-by=.lastTimestamp")),
        (view, ("logs", "-l", "ryzanstein.dev/inference-service", "--all-containers", "--prefix", "--tail=60")),
        (release, ("get", "pods", "-o", "wide")),
        (release, ("logs", "-l", "app.kubernetes.io/component=operator", "--prefix", "--tail=80")),
        (release, ("logs", "-l", "app.kubernetes.io/component=gateway", "--prefix", "--tail=40")),
    ]
    parts = []
    for kubectl, arguments in asked:
        try:
            said = kubectl.kubectl(*arguments)
        except AssertionError as error:
            said = str(error)
        parts.append(f"$ kubectl {' '.join(arguments)}\n{said[-EVIDENCE_CHARACTERS:]}")
    return "\n".join(parts)


@pytest.fixture(scope="session")
def release() -> Release:
    """The release that `make e2e` installed; a cluster that it did not prepare is left alone."""
    view = Release(Connection.read(), RELEASE)
    nodes = view.kubectl("get", "nodes", "-o", "name").split()
    assert len(nodes) >= 3, f"the stories need two workers besides the control plane, not {nodes}"
    return view


@pytest.fixture(scope="session")
def gateway(release: Release) -> Gateway:
    encoded = release.kubectl("get", "secret", f"{RELEASE}-default-key", "-o", "jsonpath={.data.key}")
    return Gateway(release.connection.gateway, base64.b64decode(encoded).decode().strip())


@pytest.fixture
def cluster(release: Release) -> Iterator[ClusterView]:
    """A namespace of its own that enforces Pod Security `restricted`; gone when the test is."""
    with own_namespace(release) as view:
        yield view


@pytest.fixture(scope="module")
def shared_cluster(release: Release) -> Iterator[ClusterView]:
    """The same for all tests of one module, which share what they apply."""
    with own_namespace(release) as view:
        yield view


@contextmanager
def own_namespace(release: Release) -> Iterator[ClusterView]:
    """A namespace that lives as long as the context."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "ryzanstein.dev/e2e": "true"}
    view = ClusterView(release.connection, name)
    view.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield view
    release.kubectl("delete", "namespace", name, "--wait=false")
    # Two cores: the next test should not share them with this one's pods.
    until(240, f"namespace {name} is empty", lambda: not view.items("pods", ""))
