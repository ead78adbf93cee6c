"""Reads a checkpoint's tensors into a decoder's parameters: each rank its own shard, straight from the file.

Only safetensors is read; a pickle (.bin, .pt) can run code and is refused. Knows the layout of a model directory and
the `Shard`s that layers ask for; nothing of the layers themselves.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ryzanstein_worker.errors import ModelError
from ryzanstein_worker.model.config import read_json
from ryzanstein_worker.model.layers.linear import Shard
from ryzanstein_worker.model.safetensors import SafetensorsFile, TensorEntry, open_regular

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_THREADS = 4
_PIECE_BYTES = 16 * 2**20
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)  # a constant that old checkpoints stored
_TIED_HEAD = "lm_head.weight"  # may be stored although it is tied to the embedding


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The checked headers of a model directory's weights."""

    model_dir: Path
    files: tuple[SafetensorsFile, ...]

    @classmethod
    def open(cls, model_dir: Path) -> "Checkpoint":
        """Raises ModelError for a directory without safetensors, with a broken one, or with a shard missing."""
        files = tuple(SafetensorsFile.read(path) for path in _weight_files(model_dir))
        seen: dict[str, Path] = {}
        for file in files:
            for name in file.tensors:
                if name in seen:
                    raise ModelError(f"The tensor {name} is in both {seen[name]} and {file.path}.")
                seen[name] = file.path
        return cls(model_dir, files)

    def find(self, name: str) -> tuple[SafetensorsFile, TensorEntry]:
        """Raises ModelError if no file has the tensor."""
        for file in self.files:
            if name in file.tensors:
                return file, file.tensors[name]
        raise ModelError(f"The weights in {self.model_dir} lack the tensor {name}, which config.json asks for.")


def load_weights(
    checkpoint: Checkpoint, shards: Iterable[Shard], *, on_progress: Callable[[], None] = lambda: None
) -> None:
    """Fill every shard's memory, converting floating dtypes and moving to the device on the way.

    At most a few pieces of 16 MiB are held beside the parameters. `on_progress` is called from this thread after each.
    Raises ModelError for a missing, left-over, misshapen or unreadable tensor; the parameters are then undefined.
    """
    shards = list(shards)
    _refuse_leftovers(checkpoint, {shard.name for shard in shards})
    pieces = [piece for shard in shards for piece in _pieces(checkpoint, shard)]
    descriptors = {file.path: open_regular(file.path) for file in checkpoint.files}
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="weights")
    try:
        for future in as_completed([pool.submit(piece.read, descriptors[piece.path]) for piece in pieces]):
            future.result()
            on_progress()
    finally:
        pool.shutdown(cancel_futures=True)
        for descriptor in descriptors.values():
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one shard: each row's bytes lie `stride` apart in the file. A contiguous shard is one long row."""

    path: Path
    name: str
    offset: int
    stride: int
    dtype: torch.dtype
    into_RC: torch.Tensor

    def read(self, descriptor: int) -> None:
        direct = self.into_RC.device.type == "cpu" and self.into_RC.dtype == self.dtype
        buffer_RC = self.into_RC if direct else torch.empty(self.into_RC.shape, dtype=self.dtype)
        for row, row_C in enumerate(buffer_RC):
            self._fill(descriptor, memoryview(row_C.view(torch.uint8).numpy()), self.offset + row * self.stride)
        if not direct:
            self.into_RC.copy_(buffer_RC)

    def _fill(self, descriptor: int, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise ModelError(f"{self.path}: reading the tensor {self.name} failed: {error.strerror}.") from error
            if count == 0:
                raise ModelError(f"{self.path} became shorter while the tensor {self.name} was read.")
            done += count


def _pieces(checkpoint: Checkpoint, shard: Shard) -> Iterator[_Piece]:
    """The reads that fill one shard. Checks the tensor's dtype and shape first."""
    file, entry = checkpoint.find(shard.name)
    if entry.dtype not in _DTYPES:
        raise ModelError(f"{file.path}: the tensor {shard.name} is stored as {entry.dtype}, not as a float.")
    if entry.shape != shard.shape:
        raise ModelError(
            f"{file.path}: the tensor {shard.name} has the shape {list(entry.shape)} where config.json makes it "
            f"{list(shard.shape)}."
        )
    if not shard.into.numel():
        return
    dtype = _DTYPES[entry.dtype]
    row_bytes = entry.num_bytes // entry.shape[0]
    if shard.dim == 0 or shard.into.shape == shard.shape:
        offset = entry.offset + shard.start * row_bytes
        whole = _Piece(file.path, shard.name, offset, 0, dtype, shard.into.view(1, -1))
        yield from _split_columns(whole)
    else:
        column_bytes = row_bytes // entry.shape[1]
        offset = entry.offset + shard.start * column_bytes
        yield from _split_rows(_Piece(file.path, shard.name, offset, row_bytes, dtype, shard.into))


def _split_columns(piece: _Piece) -> Iterator[_Piece]:
    step = _PIECE_BYTES // piece.dtype.itemsize
    for start in range(0, piece.into_RC.shape[1], step):
        part_RC = piece.into_RC[:, start : start + step]
        yield replace(piece, offset=piece.offset + start * piece.dtype.itemsize, into_RC=part_RC)


def _split_rows(piece: _Piece) -> Iterator[_Piece]:
    step = max(1, _PIECE_BYTES // (piece.into_RC.shape[1] * piece.dtype.itemsize))
    for start in range(0, piece.into_RC.shape[0], step):
        part_RC = piece.into_RC[start : start + step]
        yield replace(piece, offset=piece.offset + start * piece.stride, into_RC=part_RC)


def _refuse_leftovers(checkpoint: Checkpoint, used: set[str]) -> None:
    for file in checkpoint.files:
        for name in file.tensors:
            if name not in used and name != _TIED_HEAD and not name.endswith(_IGNORED_SUFFIXES):
                raise ModelError(
                    f"{file.path} holds the tensor {name}, which the model of config.json has no place for."
                )


def _weight_files(model_dir: Path) -> list[Path]:
    if (model_dir / _SINGLE).exists():
        return [_inside(model_dir, _SINGLE)]
    if (model_dir / _INDEX).exists():
        return _indexed_files(model_dir)
    if not model_dir.is_dir():
        raise ModelError(f"The model directory {model_dir} does not exist.")
    if any(path.suffix in (".bin", ".pt", ".pth", ".pkl") for path in model_dir.iterdir()):
        raise ModelError(f"{model_dir} has its weights only as pickles, which can run code; {_SINGLE} is needed.")
    raise ModelError(f"{model_dir} has neither {_SINGLE} nor {_INDEX}.")


def _indexed_files(model_dir: Path) -> list[Path]:
    index = model_dir / _INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise ModelError(f"{index} has no usable weight_map.")
    return [_inside(model_dir, name) for name in sorted(set(weight_map.values()))]


def _inside(model_dir: Path, name: str) -> Path:
    """The file's real path, which lies in the model's directory or, in a hub cache, among the model's blobs."""
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise ModelError(f"{model_dir / _INDEX} names the file {name[:200]!r}, which is not one of this directory.")
    home = model_dir.resolve()
    real = (model_dir / name).resolve()
    if not (real.is_relative_to(home) or real.is_relative_to(home.parent.parent / "blobs")):
        raise ModelError(f"{model_dir / name} is a link that leads out of the model's directory.")
    if not real.exists():
        raise ModelError(f"{model_dir / name} is missing.")
    return real
