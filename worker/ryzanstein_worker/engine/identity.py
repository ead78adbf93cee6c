"""What the pods of a group must have in common, and the sentence for one that does not. Reads file headers only."""

import hashlib
import struct
from pathlib import Path

from ryzanstein_worker.config import EngineConfig, GroupConfig
from ryzanstein_worker.engine.node_frames import Join

_OWN = frozenset({"model_dir", "threads_per_rank"})  # may differ from pod to pod
_FLAGS = {
    "enable_prefix_caching": "--no-enable-prefix-caching",
    "gpu_memory_utilization": "--gpu-memory-utilization",
}
_MOST_HEADER_BYTES = 100 * 2**20


def model_identity(directory: Path) -> str:
    """A digest of the model's configuration and of each weight file's size and header: names, types and shapes.

    Not of the weights themselves, which would take minutes. Files that cannot be read count as absent: the ranks tell
    of them.
    """
    digest = hashlib.sha256()
    for path in sorted([directory / "config.json", *directory.glob("*.safetensors")]):
        try:
            content = path.read_bytes() if path.suffix == ".json" else _header(path)
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + content)
        except OSError:
            continue
    return digest.hexdigest()


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        return start + file.read(min(size, _MOST_HEADER_BYTES))


def misfit(own: Join, other: Join) -> str | None:
    """Why a pod is not of this group; None if it is. `own` is the head's."""
    if other.config.nnodes != own.config.nnodes:
        return _differs(other, "--nnodes", other.config.nnodes, own.config.nnodes)
    if not 0 < other.node_rank < own.config.nnodes:
        return f"--node-rank {other.node_rank} is not a place beside node rank 0 in --nnodes {own.config.nnodes}."
    if other.revision != own.revision:
        return _differs(other, "the revision", other.revision or "unknown", own.revision or "unknown")
    for field in EngineConfig.__struct_fields__:
        theirs, ours = getattr(other.config, field), getattr(own.config, field)
        if field not in _OWN and theirs != ours:
            return _differs(other, _FLAGS.get(field, "--" + field.replace("_", "-")), theirs, ours)
    if other.model != own.model:
        return f"Node rank {other.node_rank} has another model in its --model than node rank 0: the files differ."
    return None


def _differs(other: Join, what: str, theirs: object, ours: object) -> str:
    return f"Node rank {other.node_rank} has {what} {theirs}, node rank 0 has {ours}: a group needs the same."


def settings_of(config: EngineConfig, group: GroupConfig, revision: str) -> Join:
    """What this pod would join with."""
    return Join(
        node_rank=group.node_rank,
        master_addr=group.master_addr,
        revision=revision,
        model=model_identity(config.model_path),
        config=config,
    )
