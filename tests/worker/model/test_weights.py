"""Checkpoints on disk: what is read reaches the parameters bit by bit, what is broken is refused by name."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ryzanstein_worker.errors import ModelError
from ryzanstein_worker.model.config import ModelConfig, parse_config
from ryzanstein_worker.model.decoder import Decoder
from ryzanstein_worker.model.loader import fingerprint, load_model
from ryzanstein_worker.model.partition import check_partition
from ryzanstein_worker.model.weights import Checkpoint, load_weights
from ryzanstein_worker.parallel.group import SINGLE, Group

CPU = torch.device("cpu")
CONFIG = parse_config(
    {
        "model_type": "llama",
        "vocab_size": 10,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    {},
    source="config.json",
)
LAYER = "model.layers.0"


def tensors() -> dict[str, torch.Tensor]:
    shapes = {
        "model.embed_tokens.weight": (10, 8),
        f"{LAYER}.self_attn.q_proj.weight": (8, 8),
        f"{LAYER}.self_attn.k_proj.weight": (4, 8),
        f"{LAYER}.self_attn.v_proj.weight": (4, 8),
        f"{LAYER}.self_attn.o_proj.weight": (8, 8),
        f"{LAYER}.mlp.gate_proj.weight": (12, 8),
        f"{LAYER}.mlp.up_proj.weight": (12, 8),
        f"{LAYER}.mlp.down_proj.weight": (8, 12),
        f"{LAYER}.input_layernorm.weight": (8,),
        f"{LAYER}.post_attention_layernorm.weight": (8,),
        "model.norm.weight": (8,),
        "lm_head.weight": (10, 8),
    }
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write(directory: Path, content: dict[str, torch.Tensor]) -> Path:
    save_file(content, directory / "model.safetensors")
    return directory


def load(directory: Path, *, dtype: torch.dtype = torch.float32, group: Group = SINGLE) -> dict[str, torch.Tensor]:
    """The decoder's memory by checkpoint name."""
    decoder = load_model(directory, CONFIG, dtype=dtype, device=CPU, group=group)
    return {shard.name: shard.into for shard in decoder.shards()}


def refused(directory: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(directory)
    return str(caught.value)


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16])
def test_every_float_dtype_is_converted_as_torch_does(stored: torch.dtype, wanted: torch.dtype, tmp_path: Path) -> None:
    source = {name: value.to(stored) for name, value in tensors().items()}
    for name, value in load(write(tmp_path, source), dtype=wanted).items():
        assert torch.equal(value, source[name].to(wanted)), name


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_ranks_shards_put_together_are_the_checkpoint(
    size: int, stored: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ryzanstein_worker.model.weights._PIECE_BYTES", 48)  # many pieces, also within a tensor
    source = {name: value.to(stored) for name, value in tensors().items()}
    ranks = [load(write(tmp_path, source), group=Group(rank, size)) for rank in range(size)]
    for name, whole in source.items():
        parts = [rank[name] for rank in ranks]
        if parts[0].shape == whole.shape:
            joined = parts[0]
        elif name.endswith(("k_proj.weight", "v_proj.weight")) and size == 4:
            assert torch.equal(parts[0], parts[1])  # two ranks share each of the two kv heads
            joined = torch.cat(parts[::2])
        else:
            joined = torch.cat(parts, dim=1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0)
        assert torch.equal(joined, whole.float()), name


def test_progress_is_reported_while_reading(tmp_path: Path) -> None:
    calls: list[None] = []
    directory = write(tmp_path, tensors())
    load_model(directory, CONFIG, dtype=torch.float32, device=CPU, group=SINGLE, on_progress=lambda: calls.append(None))
    assert len(calls) == len(tensors())


def test_a_tied_head_and_stored_rotary_constants_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, {**tensors(), f"{LAYER}.self_attn.rotary_emb.inv_freq": torch.ones(1)})
    decoder = load_model(
        tmp_path,
        replace(CONFIG, tie_word_embeddings=True),
        dtype=torch.float32,
        device=CPU,
        group=SINGLE,
    )
    assert decoder.num_parameters == sum(v.numel() for n, v in tensors().items() if n != "lm_head.weight")


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in tensors().items() if key != name}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (without(f"{LAYER}.mlp.up_proj.weight"), f"lack the tensor {LAYER}.mlp.up_proj.weight"),
        ({**tensors(), "model.layers.1.extra": torch.ones(1)}, "the tensor model.layers.1.extra, which"),
        ({**tensors(), "lm_head.weight": torch.ones(11, 8)}, "lm_head.weight has the shape [11, 8] where"),
        ({**tensors(), "lm_head.weight": torch.ones(8, 10)}, "lm_head.weight has the shape [8, 10] where"),
        ({**tensors(), "model.norm.weight": torch.ones(8, dtype=torch.int8)}, "model.norm.weight is stored as I8"),
    ],
)
def test_tensors_that_do_not_fit_config_json_are_named(
    content: dict[str, torch.Tensor], sentence: str, tmp_path: Path
) -> None:
    assert sentence in refused(write(tmp_path, content))


def container(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(begin: int, end: int, *, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "truncated"),
        (b"\x10\0\0\0", "truncated"),
        (container({}, length=2**63), "truncated"),
        (container({}, length=1000), "truncated"),
        (container(b"{" + b" " * 40), "not valid JSON"),
        (container(b'{"a":1,"a":2}'), "not valid JSON"),
        (container(b"[" * 100_000), "not valid JSON"),
        (container([]), "not a JSON object"),
        (container({"a": 3}), "tensor a is not described"),
        (container({"a": entry(0, 4, dtype="F3")}, b"0123"), "tensor a has the unknown dtype F3"),
        (container({"a": entry(0, 4, shape=[2**63, 2**63])}, b"0123"), "tensor a has no usable shape"),
        (container({"a": entry(0, 4, shape=[2**62, 4])}, b"0123"), "tensor a takes 4 bytes where"),
        (container({"a": entry(0, 4, shape=[-4])}, b"0123"), "tensor a has no usable shape"),
        (container({"a": entry(0, 1, shape=[True])}, b"0"), "tensor a has no usable shape"),
        (container({"a": entry(0, 1, shape=[1] * 9)}, b"0"), "tensor a has no usable shape"),
        (container({"a": entry(4, 0, shape=[0])}, b"0123"), "tensor a has no usable data_offsets"),
        (container({"a": entry(0, 8)}, b"0123"), "tensor a ends beyond"),
        (container({"a": entry(0, 4), "b": entry(2, 4)}, b"0123"), "tensor b overlaps"),
        (container({"a": entry(0, 2), "b": entry(3, 4)}, b"0123"), "tensor b leaves a hole"),
        (container({"a": entry(0, 2)}, b"0123"), "2 bytes that belong to no tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_corrupt_container_is_refused_before_anything_is_allocated(
    content: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    message = refused(tmp_path)
    assert sentence in message
    assert str(tmp_path / "model.safetensors") in message


def test_a_header_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(200_000_000)  # sparse: takes no room
    assert "at most 100000000" in refused(tmp_path)


def index(directory: Path, weight_map: Any) -> Path:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def _escaping_link(directory: Path) -> None:
    outside = directory.parent / f"{directory.name}-outside"
    outside.mkdir()
    write(outside, tensors())
    (directory / "model.safetensors").symlink_to(outside / "model.safetensors")


def _pipe(directory: Path) -> None:
    os.mkfifo(directory / "model.safetensors")


def _pickle(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _duplicate(directory: Path) -> None:
    save_file(tensors(), directory / "a.safetensors")
    save_file({"lm_head.weight": torch.ones(1)}, directory / "b.safetensors")
    index(directory, {"x": "a.safetensors", "lm_head.weight": "b.safetensors"})


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda d: None, "has neither model.safetensors nor"),
        (_pickle, "only as pickles"),
        (_escaping_link, "leads out of the model's directory"),
        (_pipe, "not a regular file"),
        (_duplicate, "lm_head.weight is in both"),
        (lambda d: index(d, {}), "no usable weight_map"),
        (lambda d: index(d, {"a": 3}), "no usable weight_map"),
        (lambda d: index(d, {"a": "../x.safetensors"}), "'../x.safetensors', which is not one of this directory"),
        (lambda d: index(d, {"a": "/etc/x.safetensors"}), "which is not one of this directory"),
        (lambda d: index(d, {"a": "weights.bin"}), "'weights.bin', which is not one of this directory"),
        (lambda d: index(d, {"a": "gone.safetensors"}), "gone.safetensors is missing"),
    ],
)
def test_a_directory_without_proper_weights_is_refused(
    prepare: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    assert sentence in refused(tmp_path)


def test_the_links_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file(tensors(), blobs / "0123")
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs/0123"))
    assert torch.equal(load(snapshot)["lm_head.weight"], tensors()["lm_head.weight"])


def test_a_file_that_shrinks_after_its_header_was_read_is_noticed(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write(tmp_path, tensors()))
    os.truncate(tmp_path / "model.safetensors", 1500)
    decoder = Decoder(CONFIG, SINGLE, dtype=torch.float32, device=CPU, max_model_len=16)
    with pytest.raises(ModelError, match="became shorter while the tensor"):
        load_weights(checkpoint, decoder.shards())


def test_the_fingerprint_tells_layouts_apart(tmp_path: Path) -> None:
    first = fingerprint(write(tmp_path, tensors()))
    assert first == fingerprint(write(tmp_path, tensors()))
    assert first != fingerprint(write(tmp_path, {**tensors(), "more": torch.ones(1)}))


def config(heads: int, kv_heads: int, intermediate: int) -> ModelConfig:
    return replace(CONFIG, num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=intermediate)


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(8, 2, 2), (8, 2, 4), (8, 1, 8), (6, 3, 3), (12, 4, 2)])
def test_heads_that_divide_or_can_be_shared_are_accepted(heads: int, kv_heads: int, size: int) -> None:
    check_partition(config(heads, kv_heads, 24), size)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "intermediate", "size", "fits"),
    [(8, 2, 24, 3, "1, 2, 4, 8"), (6, 2, 24, 3, "1, 2, 6"), (8, 8, 18, 4, "1, 2")],
)
def test_a_size_that_does_not_fit_is_refused_with_those_that_do(
    heads: int, kv_heads: int, intermediate: int, size: int, fits: str
) -> None:
    with pytest.raises(ModelError, match=rf"over {size} tensor-parallel ranks.*which allow {fits}\."):
        check_partition(config(heads, kv_heads, intermediate), size)
