"""The safetensors container, read by our own code: an 8-byte length, a JSON header, the tensors' bytes.

A header is hostile until checked: every size is compared with the file's before anything is allocated, and Python's
integers cannot overflow. The rules are those of the format: tensors lie one after another, without holes or overlaps,
and end where the file ends. Knows nothing of models.
"""

import json
import math
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ryzanstein_worker.errors import ModelError

MAX_HEADER_BYTES = 100_000_000
_MAX_DIMS = 8
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor's bytes lie. `offset` counts from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A checked header. The file itself is opened anew for reading."""

    path: Path
    size: int
    header: bytes
    tensors: dict[str, TensorEntry]

    @classmethod
    def read(cls, path: Path) -> "SafetensorsFile":
        """Raises ModelError, naming the file and, where one is at fault, the tensor."""
        fd = open_regular(path)
        try:
            size = os.fstat(fd).st_size
            prefix = os.pread(fd, 8, 0)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > size - 8:
                raise ModelError(f"{path} is truncated: it has {size} bytes, too few for its own header.")
            if length > MAX_HEADER_BYTES:
                raise ModelError(f"{path} has a header of {length} bytes; at most {MAX_HEADER_BYTES} are read.")
            header = os.pread(fd, length, 8)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
        finally:
            os.close(fd)
        return cls(path, size, header, _parse(header, path, data_start=8 + length, data_bytes=size - 8 - length))


def open_regular(path: Path) -> int:
    """A descriptor for reading. Raises ModelError for what is missing, unreadable, or a pipe or device."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ModelError(f"{path} cannot be opened: {error.strerror}.") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ModelError(f"{path} is not a regular file.")
    return fd


def _parse(header: bytes, path: Path, *, data_start: int, data_bytes: int) -> dict[str, TensorEntry]:
    try:
        raw = json.loads(header, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} has a corrupt header: it is not valid JSON.") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path} has a corrupt header: it is not a JSON object.")
    raw.pop("__metadata__", None)
    entries = {name: _entry(name, value, path, data_start) for name, value in raw.items()}
    end = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].num_bytes)):
        if entry.offset != end:
            kind = "overlaps another" if entry.offset < end else "leaves a hole before it"
            raise ModelError(f"{path} has a corrupt header: the tensor {name} {kind}.")
        end += entry.num_bytes
        if end > data_start + data_bytes:
            raise ModelError(f"{path} is truncated: the tensor {name} ends beyond the file's {data_bytes} data bytes.")
    if end != data_start + data_bytes:
        raise ModelError(f"{path} has {data_start + data_bytes - end} bytes that belong to no tensor.")
    return entries


def _entry(name: str, value: Any, path: Path, data_start: int) -> TensorEntry:
    where = f"{path} has a corrupt header: the tensor {name[:200]}"
    if not isinstance(value, dict):
        raise ModelError(f"{where} is not described by an object.")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ModelError(f"{where} has the unknown dtype {str(dtype)[:40]}.")
    if not (isinstance(shape, list) and len(shape) <= _MAX_DIMS and _are_sizes(shape)):
        raise ModelError(f"{where} has no usable shape.")
    if not (isinstance(offsets, list) and len(offsets) == 2 and _are_sizes(offsets) and offsets[0] <= offsets[1]):
        raise ModelError(f"{where} has no usable data_offsets.")
    num_bytes = math.prod(shape) * _ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != num_bytes:
        raise ModelError(f"{where} takes {offsets[1] - offsets[0]} bytes where its shape and dtype need {num_bytes}.")
    return TensorEntry(dtype, tuple(shape), data_start + offsets[0], num_bytes)


def _are_sizes(values: Iterable[Any]) -> bool:
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result
