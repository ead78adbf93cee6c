"""config.json and generation_config.json read as data into one frozen ModelConfig.

Nothing is imported or run because of what these files name: `auto_map` is never followed, and an architecture that is
not listed here is refused. Knows no tensors.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ryzanstein_worker.errors import ModelError
from ryzanstein_worker.model.rope_config import RopeConfig, parse_rope

MAX_JSON_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class _Family:
    """What an architecture fixes without saying so in config.json (the defaults are those of transformers)."""

    architecture: str
    max_position_embeddings: int
    num_key_value_heads: int | None = None  # None: as many as attention heads
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    qk_norm: bool = False
    biases: Literal["config", "qkv", "none"] = "none"
    mlp_bias: bool = False  # whether config.json may ask for it
    sliding: Literal["none", "all_layers", "layer_types"] = "none"


FAMILIES = {
    "llama": _Family("LlamaForCausalLM", 2048, biases="config", mlp_bias=True),
    "mistral": _Family("MistralForCausalLM", 131072, num_key_value_heads=8, sliding="all_layers"),
    "qwen2": _Family("Qwen2ForCausalLM", 32768, num_key_value_heads=32, biases="qkv", sliding="layer_types"),
    "qwen3": _Family(
        "Qwen3ForCausalLM",
        32768,
        num_key_value_heads=32,
        head_dim=128,
        qk_norm=True,
        biases="config",
        sliding="layer_types",
    ),
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder's shape, the same for every family."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_windows: tuple[int | None, ...]  # per layer; n: a token sees itself and the n - 1 before it
    rope: RopeConfig
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    dtype: str  # "float32", "bfloat16" or "float16": what the publisher recommends

    @property
    def max_model_len(self) -> int:
        """The longest sequence, in tokens, that the model's positions allow."""
        return self.rope.max_model_len(self.max_position_embeddings)


def load_config(model_dir: Path) -> ModelConfig:
    """Read the directory's config.json (and generation_config.json, if any). Raises ModelError."""
    if not model_dir.is_dir():
        raise ModelError(f"The model directory {model_dir} does not exist.")
    path = model_dir / "config.json"
    raw = read_json(path)
    generation_path = model_dir / "generation_config.json"
    generation = read_json(generation_path) if generation_path.exists() else {}
    return parse_config(raw, generation, source=str(path))


def parse_config(raw: dict[str, Any], generation: dict[str, Any], *, source: str) -> ModelConfig:
    """Pure: the two files' contents to a ModelConfig. Raises ModelError, naming `source`."""
    family = _family(raw, source)
    try:
        config = _Raw.model_validate(raw)
        eos = (*_ids(config.eos_token_id), *_ids(_RawGeneration.model_validate(generation).eos_token_id))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{source}: the field {field!r} is not usable: {first['msg']}.") from error
    kv_heads = config.num_key_value_heads or family.num_key_value_heads or config.num_attention_heads
    if "num_key_value_heads" in raw and raw["num_key_value_heads"] is None:
        kv_heads = config.num_attention_heads
    head_dim = config.head_dim or family.head_dim or config.hidden_size // config.num_attention_heads
    if config.num_attention_heads % kv_heads:
        raise ModelError(f"{source}: {config.num_attention_heads} attention heads do not share {kv_heads} kv heads.")
    if head_dim % 2:
        raise ModelError(f"{source}: the head size {head_dim} is odd; rotary positions need an even one.")
    max_position_embeddings = config.max_position_embeddings or family.max_position_embeddings
    return ModelConfig(
        model_type=config.model_type,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        hidden_act=config.hidden_act,
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=config.tie_word_embeddings,
        qkv_bias=family.biases == "qkv" or (family.biases == "config" and config.attention_bias),
        o_bias=family.biases == "config" and config.attention_bias,
        mlp_bias=family.mlp_bias and config.mlp_bias,
        qk_norm=family.qk_norm,
        sliding_windows=_sliding_windows(config, family, raw, source),
        rope=parse_rope(raw, head_dim=head_dim, max_position_embeddings=max_position_embeddings, source=source),
        eos_token_ids=tuple(dict.fromkeys(eos)),
        bos_token_id=config.bos_token_id if isinstance(config.bos_token_id, int) else None,
        dtype=config.dtype or config.torch_dtype or "float32",
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of at most MAX_JSON_BYTES. Raises ModelError, naming the file."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ModelError(f"{path} is larger than {MAX_JSON_BYTES // 2**20} MiB, which no such file is.")
        value = json.loads(content)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object.")
    return value


_Count = Annotated[int, Field(ge=1, le=2**24)]
_TokenIds = int | list[int] | None
_Dtype = Literal["float32", "bfloat16", "float16"]


class _Raw(BaseModel):
    """The fields of config.json that shape the decoder. Others say nothing about its arithmetic."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model_type: str
    vocab_size: _Count
    hidden_size: _Count
    intermediate_size: _Count
    num_hidden_layers: Annotated[int, Field(ge=1, le=1024)]
    num_attention_heads: Annotated[int, Field(ge=1, le=4096)]
    num_key_value_heads: Annotated[int, Field(ge=1, le=4096)] | None = None
    head_dim: Annotated[int, Field(ge=2, le=1024)] | None = None
    hidden_act: Literal["silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"] = "silu"
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    max_position_embeddings: _Count | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: _Count | None = 4096
    max_window_layers: Annotated[int, Field(ge=0)] = 28
    layer_types: Annotated[list[str], Field(max_length=1024)] | None = None
    eos_token_id: _TokenIds = None
    bos_token_id: _TokenIds = None
    dtype: _Dtype | None = None
    torch_dtype: _Dtype | None = None


class _RawGeneration(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    eos_token_id: _TokenIds = None


def _family(raw: dict[str, Any], source: str) -> _Family:
    model_type = raw.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    architectures = raw.get("architectures") or [family.architecture if family else None]
    if family is None or architectures != [family.architecture]:
        supported = ", ".join(f.architecture for f in FAMILIES.values())
        named = architectures[0] if isinstance(architectures, list) and architectures[0] else model_type
        raise ModelError(f"{source} names the architecture {named!r}; supported are {supported}.")
    if raw.get("quantization_config"):
        raise ModelError(f"{source} describes quantized weights; only float32, float16 and bfloat16 ones can be run.")
    return family


def _sliding_windows(config: _Raw, family: _Family, raw: dict[str, Any], source: str) -> tuple[int | None, ...]:
    layers = config.num_hidden_layers
    if family.sliding == "all_layers":
        return (config.sliding_window,) * layers
    if family.sliding == "none" or not config.use_sliding_window or config.sliding_window is None:
        return (None,) * layers
    kinds = config.layer_types or [
        "sliding_attention" if layer >= config.max_window_layers else "full_attention" for layer in range(layers)
    ]
    if len(kinds) != layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise ModelError(f"{source}: layer_types must name full_attention or sliding_attention for {layers} layers.")
    return tuple(config.sliding_window if kind == "sliding_attention" else None for kind in kinds)


def _ids(value: _TokenIds) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else value
