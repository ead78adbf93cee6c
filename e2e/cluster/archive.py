"""Image archives that hold only what a node lacks.

`docker save` always writes every layer, and for a changed line of Python a node would read a gigabyte of torch again.
What it wrote is rearranged into an OCI layout without the layers that the node's containerd keeps already: containerd
finds blobs by their digest, and an uncompressed layer's digest is its diff ID.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

_KINDS = "application/vnd.oci.image"


def thin(saved: Path, name: str, held: Collection[str], target: Path) -> int:
    """Writes the image of `saved` (docker save's archive) as `name` to `target`, without the layers in `held`.

    Layers go by their digests, "sha256:...". Returns how many layers were written.
    """
    with tarfile.open(saved) as source, tarfile.open(target, "w") as out:
        listed = json.loads(_read(source, "manifest.json"))[0]
        config = _read(source, listed["Config"])
        diff_ids: list[str] = json.loads(config)["rootfs"]["diff_ids"]
        descriptors = []
        written: set[str] = set(held)
        for diff_id, member in zip(diff_ids, listed["Layers"], strict=True):
            size = _copy_layer(source, member, diff_id, None if diff_id in written else out)
            descriptors.append({"mediaType": f"{_KINDS}.layer.v1.tar", "digest": diff_id, "size": size})
            written.add(diff_id)
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_KINDS}.manifest.v1+json",
            "config": _add_blob(out, config, "config.v1+json"),
            "layers": descriptors,
        }
        entry = _add_blob(out, json.dumps(manifest).encode(), "manifest.v1+json")
        entry["annotations"] = {"io.containerd.image.name": f"docker.io/{name}"}
        _add(out, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        _add(out, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        return len(written) - len(set(held))


def _read(source: tarfile.TarFile, name: str) -> bytes:
    file = source.extractfile(name)
    assert file is not None, f"{name} in an image archive is no file"
    return file.read()


def _copy_layer(source: tarfile.TarFile, member: str, diff_id: str, out: tarfile.TarFile | None) -> int:
    """The layer's size in bytes; the layer itself goes to `out`, if given."""
    file = source.extractfile(member)  # follows the link that stands for a repeated layer
    assert file is not None, f"{member} in an image archive is no file"
    with file:
        size = file.seek(0, io.SEEK_END)
        if out is not None:
            file.seek(0)
            entry = tarfile.TarInfo(_path(diff_id))
            entry.size = size
            out.addfile(entry, file)
    return size


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _add(out: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    out.addfile(entry, io.BytesIO(content))


def _add_blob(out: tarfile.TarFile, content: bytes, kind: str) -> dict[str, Any]:
    """Adds a blob under its digest; returns its descriptor."""
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    _add(out, _path(digest), content)
    return {"mediaType": f"{_KINDS}.{kind}", "digest": digest, "size": len(content)}
