"""What every story shares: the cluster that is up, a namespace of its own, the gateway, and a dump when it fails.

Nothing here makes or changes the cluster: it reads where `python3 e2e/cluster up` left word of it, and refuses others.
"""

import uuid
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from stories import GATEWAY, OPERATOR, RELEASE_NAMESPACE, Connection, Gateway, Kubectl, KubectlError, default_key

OURS = "inferenceservices,deployments,replicasets,pods,services,endpointslices,networkpolicies,poddisruptionbudgets"
_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every story is marked e2e, so that no fast run takes one up; a story may take longer than a fast test."""
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(600))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remembers that a test failed, for the dump in its namespace's teardown."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture(scope="session")
def connection() -> Connection:
    """The cluster in use. A context that is not the project's own is refused unless `up` was pointed at it."""
    found = Connection.read()
    kubectl = Kubectl(found, "default")
    current = kubectl("config", "current-context").strip()
    if current != found.context:
        pytest.exit(f"{found.kubeconfig} is set to context {current}, not to {found.context}: refusing to run", 4)
    if kubectl("get", "--raw", "/readyz", "--request-timeout=10s") != "ok":
        pytest.exit(f"the API server of {found.context} is not ready; run python3 e2e/cluster up", 4)
    return found


@pytest.fixture(scope="session")
def release(connection: Connection) -> Kubectl:
    """kubectl in the release's namespace, where operator and gateway run."""
    return Kubectl(connection, RELEASE_NAMESPACE)


@pytest.fixture(scope="session")
def gateway(connection: Connection, release: Kubectl) -> Gateway:
    """The gateway, with a key of the set `default`."""
    return Gateway(connection.gateway, default_key(release))


@pytest.fixture
def kubectl(request: pytest.FixtureRequest, connection: Connection, release: Kubectl) -> Iterator[Kubectl]:
    """kubectl in a namespace of the test's own, which enforces Pod Security `restricted` and goes with the test."""
    namespace = f"e2e-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "ryzanstein.dev/e2e": "true"}
    release.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    inside = Kubectl(connection, namespace)
    try:
        yield inside
        if request.node.stash.get(_FAILED, False):
            _dump(inside, release)
    finally:
        # Not waited for here: the next test has a namespace of its own, and names within it are its own too.
        release("delete", "namespace", namespace, "--wait=false")


def _dump(kubectl: Kubectl, release: Kubectl) -> None:
    """Prints what the story left behind: objects, events, the logs of its pods, of the operator and of the gateway."""
    _show(kubectl, "get", OURS, "-o", "wide")
    _show(kubectl, "get", "inferenceservices", "-o", "yaml")
    _show(kubectl, "get", "events", "--sort-by=.metadata.creationTimestamp")
    for pod in _names(kubectl, "pods"):
        _show(kubectl, "logs", pod, "--all-containers", "--tail=40")
        _show(kubectl, "logs", pod, "--all-containers", "--previous", "--tail=20")
    _show(release, "logs", OPERATOR, "--all-pods=true", "--tail=80")
    _show(release, "logs", GATEWAY, "--all-pods=true", "--tail=40")


def _names(kubectl: Kubectl, kind: str) -> list[str]:
    try:
        return kubectl("get", kind, "-o", "name").split()
    except KubectlError:
        return []


def _show(kubectl: Kubectl, *words: str) -> None:
    print(f"\n$ kubectl -n {kubectl.namespace} {' '.join(words)}")
    try:
        print(kubectl(*words))
    except KubectlError as error:
        print(error)
