"""Where everything of one cluster lies and what it is called. Values only: nothing here runs a command."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GATEWAY_NODE_PORT = 30080
"""The node port that the chart gives the gateway in this cluster, published on the user's loopback."""
NAMESPACE = "ryzanstein"
RELEASE = "ryzanstein"


@dataclass(frozen=True)
class Lab:
    """One cluster's name, ports and directories; see `from_environment` for the settings."""

    name: str
    api_port: int
    gateway_port: int
    cache: Path
    state: Path

    @property
    def context(self) -> str:
        return f"kind-{self.name}"

    @property
    def docker_socket(self) -> Path:
        return Path(f"/run/{self.name}-docker.sock")

    @property
    def netns(self) -> Path:
        return Path(f"/run/netns/{self.name}")

    @property
    def bin(self) -> Path:
        """kind, kubectl and helm, where this machine had to build them."""
        return self.cache / "bin"

    @property
    def exchange(self) -> Path:
        """A host directory that every node mounts: volumes of class `shared`, and image archives on their way in."""
        return self.state / "exchange"

    def log(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"

    @classmethod
    def from_environment(cls) -> "Lab":
        """Defaults, overridden by RYZANSTEIN_CLUSTER, _API_PORT, _GATEWAY_PORT and _CACHE."""
        name = os.environ.get("RYZANSTEIN_CLUSTER", "ryz")
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = Path(os.environ.get("RYZANSTEIN_CACHE") or home / "ryzanstein")
        return cls(
            name=name,
            api_port=int(os.environ.get("RYZANSTEIN_API_PORT", "16443")),
            gateway_port=int(os.environ.get("RYZANSTEIN_GATEWAY_PORT", "8080")),
            cache=cache,
            state=cache / "state" / name,
        )


def digest(files: Iterable[Path], *words: str) -> str:
    """Twelve hex digits that change when a file's path below the repository, its bytes, or a word does."""
    total = hashlib.sha256()
    for word in words:
        total.update(word.encode() + b"\0")
    for path in sorted(files):
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(path.name)
        total.update(str(name).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]
