"""A Hugging Face hub on loopback, over real HTTP: as much of its protocol as huggingface_hub uses to download.

Small files are served in place with git's blob SHA-1 as ETag; large ones (LFS) by a redirect to a storage path, with
the SHA-256. It can ask for a token, cut or hold a transfer, damage bytes, and counts what it sent.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LFS_FROM_BYTES = 1024


@dataclass
class Faults:
    """What goes wrong, by file name. Each cut happens once."""

    cut_after: dict[str, int] = field(default_factory=dict)  # send so many bytes, then close the connection
    hold_after: dict[str, int] = field(default_factory=dict)  # send so many bytes, then wait for `released`
    corrupt: Counter[str] = field(default_factory=Counter)  # so many transfers come with a flipped bit
    status: int | None = None  # answer everything with it
    redirect_storage_to: str | None = None
    released: threading.Event = field(default_factory=threading.Event)
    holding: threading.Event = field(default_factory=threading.Event)


class HubServer:
    """One repository on one hub. `url` is the endpoint."""

    def __init__(self, repo: str, files: dict[str, bytes], *, token: str | None = None, gated: bool = False) -> None:
        self.repo = repo
        self.files = dict(files)
        self.token = token
        self.gated = gated
        self.faults = Faults()
        self.sent: Counter[str] = Counter()
        self.resumed_from: dict[str, int] = {}  # the first byte that was asked for last
        self.requests: list[str] = []
        self.url = ""

    @property
    def commit(self) -> str:
        """Changes with the content, as a commit does."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, body in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(body).digest())
        return digest.hexdigest()

    def model_info(self) -> bytes:
        siblings = []
        for name, body in self.files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(body), "blobId": git_sha1(body)}
            if is_lfs(body):
                sha256 = hashlib.sha256(body).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(body), "pointerSize": 130}
            siblings.append(entry)
        return json.dumps(
            {
                "_id": "1",
                "id": self.repo,
                "modelId": self.repo,
                "sha": self.commit,
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": siblings,
            }
        ).encode()


def git_sha1(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def is_lfs(body: bytes) -> bool:
    return len(body) >= LFS_FROM_BYTES


@contextmanager
def serve_hub(hub: HubServer) -> Iterator[HubServer]:
    """Run the hub in a thread for the length of the block."""

    class Handler(_Handler):
        repository = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.faults.released.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repository: HubServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Tests read `requests` instead."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        hub = self.repository
        path = urlsplit(self.path).path
        hub.requests.append(f"{self.command} {path}")
        storage = path.removeprefix("/storage/")
        if storage != path:
            name = next(name for name, body in hub.files.items() if hashlib.sha256(body).hexdigest() == storage)
            self._body(name)
        elif hub.faults.status is not None:
            self._refuse(hub.faults.status)
        elif self._may_enter(path):
            self._repository(path)

    def _may_enter(self, path: str) -> bool:
        hub = self.repository
        if not path.startswith((f"/api/models/{hub.repo}/", f"/{hub.repo}/")):
            self._refuse(404, "RepoNotFound")
        elif hub.token is None:
            return True
        elif "Authorization" not in self.headers:
            self._refuse(401, "RepoNotFound")
        elif self.headers["Authorization"] != f"Bearer {hub.token}":
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif hub.gated:
            self._refuse(403, "GatedRepo")
        else:
            return True
        return False

    def _repository(self, path: str) -> None:
        hub = self.repository
        info, resolve = f"/api/models/{hub.repo}/revision/", f"/{hub.repo}/resolve/"
        revision, _, name = path.removeprefix(info).removeprefix(resolve).partition("/")
        if revision not in ("main", hub.commit):
            self._refuse(404, "RevisionNotFound")
        elif path.startswith(info):
            self._answer(200, hub.model_info(), {"Content-Type": "application/json"})
        elif name not in hub.files:
            self._refuse(404, "EntryNotFound")
        elif is_lfs(hub.files[name]):
            self._to_storage(name)
        else:
            self._body(name)

    def _to_storage(self, name: str) -> None:
        hub = self.repository
        body = hub.files[name]
        sha256 = hashlib.sha256(body).hexdigest()
        base = hub.faults.redirect_storage_to or hub.url
        self._answer(
            302,
            b"",
            {
                "Location": f"{base}/storage/{sha256}",
                "X-Repo-Commit": hub.commit,
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(body)),
                "ETag": f'"{git_sha1(body)}"',
            },
        )

    def _body(self, name: str) -> None:
        hub, faults = self.repository, self.repository.faults
        body = hub.files[name]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest() if is_lfs(body) else git_sha1(body)}"')
        self.send_header("X-Repo-Commit", hub.commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body) - start))
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        hub.resumed_from[name] = start
        if faults.corrupt[name] > 0:
            faults.corrupt[name] -= 1
            body = body[:-1] + bytes([body[-1] ^ 1])
        cut = faults.cut_after.pop(name, None)
        hold = faults.hold_after.pop(name, None)
        stop = next((limit for limit in (cut, hold) if limit is not None), len(body))
        self._send(name, body[start:stop])
        if hold is not None:
            faults.holding.set()
            faults.released.wait(timeout=50)
            self._send(name, body[max(start, hold) :])
        if cut is not None:
            self.close_connection = True

    def _send(self, name: str, data: bytes) -> None:
        self.repository.sent[name] += len(data)  # before: who has the last byte may look at once
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            self.repository.sent[name] -= len(data)
            self.close_connection = True

    def _refuse(self, status: int, code: str | None = None, message: str | None = None) -> None:
        headers = {"X-Error-Code": code} if code else {}
        headers |= {"X-Error-Message": message} if message else {}
        self._answer(status, b"{}", headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
