"""A real etcd and kube-apiserver on loopback, for tests that need the API's own behaviour and no kubelet.

Knows how the two programs are started; knows nothing of Ryzanstein. RBAC is on: `ADMIN` may do all, `OPERATOR` may do
what a test binds to it. `controllers()` adds kube-controller-manager (Deployments, EndpointSlices, garbage collection).

The programs come from `$RYZANSTEIN_KUBE_BIN`, else from where the offline cluster's build leaves them.
"""

import contextlib
import datetime
import ipaddress
import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ports import free_port

ADMIN = "admin"
OPERATOR = "operator"
START_SECONDS = 90.0
CALL_SECONDS = 60.0
CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "statefulset-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "disruption-controller",
)


def binaries() -> Path:
    """The folder that holds etcd, kube-apiserver and kube-controller-manager."""
    return Path(os.environ.get("RYZANSTEIN_KUBE_BIN", Path.home() / ".cache/kind-offline/bin"))


class ApiServer:
    """One control plane in `directory`. Start with `start()`, end with `stop()`; its data outlives `stop_api()`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.etcd_port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.flags: dict[str, tuple[str, ...]] = {}
        """More flags by program, for a start after they are set."""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write_keys()

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        etcd = f"http://127.0.0.1:{self.etcd_port}"
        peer = f"http://127.0.0.1:{free_port()}"
        self._spawn(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )
        self.start_api()

    def start_api(self) -> None:
        """Start (or start again) kube-apiserver alone and wait until it is ready."""
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self.directory / 'server.crt'}",
            f"--tls-private-key-file={self.directory / 'server.key'}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory / 'accounts.key'}",
            f"--service-account-signing-key-file={self.directory / 'accounts.key'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount",
            "--shutdown-delay-duration=0s",
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._processes["kube-apiserver"].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"kube-apiserver did not start:\n{self.log('kube-apiserver')}")
            time.sleep(0.1)

    def start_controllers(self) -> None:
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig(ADMIN)}",
            f"--controllers={','.join(CONTROLLERS)}",
            f"--secure-port={free_port()}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.directory / 'controllers'}",
            "--leader-elect=false",
            # Its own limit of 20 calls a second would be what a test measures.
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
        )

    def stop_api(self) -> None:
        """Stop kube-apiserver, and the controllers, which would take minutes to come back to it."""
        for name in ("kube-controller-manager", "kube-apiserver"):
            if name in self._processes:
                self._end(name)

    def stop(self) -> None:
        for name in reversed(list(self._processes)):
            self._end(name)

    @property
    def pids(self) -> dict[str, int]:
        """The programs that run, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def log(self, name: str) -> str:
        """The last lines that program `name` wrote."""
        return "\n".join((self.directory / f"{name}.log").read_text(errors="replace").splitlines()[-30:])

    def _spawn(self, name: str, *arguments: str) -> None:
        program = binaries() / name
        if not program.exists():
            raise RuntimeError(f"{program} is missing: bring the test cluster up once (make e2e) to build it")
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [program, *arguments, *self.flags.get(name, ())],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)

    def _ready(self) -> bool:
        try:
            return bool(self.request("GET", "/readyz", raw=True) == "ok")
        except OSError:
            return False

    # --- what clients need -----------------------------------------------------------------------------

    def kubeconfig(self, user: str, *, server: str | None = None) -> Path:
        """A kubeconfig of `user`, pointing at this server or at a proxy before it."""
        path = self.directory / f"{user}-{(server or self.url).rpartition(':')[2]}.kubeconfig"
        cluster = {"server": server or self.url, "certificate-authority": str(self.directory / "ca.crt")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": f"{user}-token"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(config))
        return path

    def request(self, method: str, path: str, body: object = None, *, raw: bool = False, **headers: str) -> Any:
        """One call as ADMIN. Gives the decoded answer; raises urllib.error.HTTPError for a refusal."""
        data = None if body is None else json.dumps(body).encode()
        all_headers = {"Authorization": f"Bearer {ADMIN}-token", "Content-Type": "application/json"}
        all_headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, all_headers, method=method)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=CALL_SECONDS, context=self._tls) as answer:
                    text = answer.read().decode()
                return text if raw else json.loads(text)
            except urllib.error.HTTPError as error:
                # A new CRD's storage asks to be tried again while it is being set up.
                if error.code != 429 or time.monotonic() > deadline:
                    raise
                error.close()
                time.sleep(0.2)

    def get(self, path: str) -> Any:
        """The object at `path`, or None where there is none."""
        try:
            return self.request("GET", path)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise

    def apply(self, path: str, body: dict[str, Any], manager: str = "test") -> Any:
        """Server-side apply as ADMIN; `path` names the object."""
        query = f"?fieldManager={manager}&force=true"
        return self.request("PATCH", path + query, body, Content_Type="application/apply-patch+yaml")

    # --- keys ---------------------------------------------------------------------------------------

    def _write_keys(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca = _certificate("test-ca", ca_key, None, ca_key)
        server_key = ec.generate_private_key(ec.SECP256R1())
        server = _certificate("kube-apiserver", server_key, ca, ca_key)
        account_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = serialization.Encoding.PEM
        (self.directory / "ca.crt").write_bytes(ca.public_bytes(pem))
        (self.directory / "server.crt").write_bytes(server.public_bytes(pem))
        for name, key in (("server.key", server_key), ("accounts.key", account_key)):
            no_password = serialization.NoEncryption()
            secret = key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, no_password)
            (self.directory / name).write_bytes(secret)
        users = [f"{ADMIN}-token,{ADMIN},{ADMIN},system:masters", f"{OPERATOR}-token,{OPERATOR},{OPERATOR},"]
        (self.directory / "tokens.csv").write_text("\n".join(users) + "\n")
        self._tls = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """A certificate for loopback that also Python's strict verification accepts; self-signed without an `issuer`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if issuer is None:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


@contextlib.contextmanager
def running(directory: Path, *, controllers: bool = False) -> Iterator[ApiServer]:
    """A started ApiServer, ended with the block."""
    server = ApiServer(directory)
    try:
        server.start()
        if controllers:
            server.start_controllers()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The session's API server with its controllers. Use a namespace of your own in each test."""
    with running(tmp_path_factory.mktemp("apiserver"), controllers=True) as server:
        yield server
