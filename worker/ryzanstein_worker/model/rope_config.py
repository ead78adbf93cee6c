"""The rotary position settings of config.json, in transformers 4's spelling (`rope_theta`, `rope_scaling`, its key
`type`) and transformers 5's (`rope_parameters`). Data only; the arithmetic is layers/rotary.py.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ryzanstein_worker.errors import ModelError

_Positive = Annotated[float, Field(gt=0, lt=1e12)]
_Length = Annotated[int, Field(ge=1, le=2**31)]


class RopeConfig(BaseModel):
    """One scaling with the parameters it needs. Fields of the other scalings keep their defaults."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rope_type: Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3"] = "default"
    rope_theta: _Positive = 10000.0
    factor: Annotated[float, Field(ge=1, lt=1e6)] = 1.0
    original_max_position_embeddings: _Length
    attention_factor: Annotated[float, Field(ge=0, lt=1e6)] | None = None
    beta_fast: _Positive = 32.0
    beta_slow: _Positive = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: tuple[_Positive, ...] = ()
    long_factor: tuple[_Positive, ...] = ()
    low_freq_factor: _Positive = 1.0
    high_freq_factor: _Positive = 4.0

    def max_model_len(self, max_position_embeddings: int) -> int:
        """Tokens that the scaled positions reach.

        Linear, dynamic and yarn stretch what the model was trained on by `factor`; for the others config.json's
        max_position_embeddings is already the stretched length.
        """
        if self.rope_type in ("linear", "dynamic"):
            return int(max_position_embeddings * self.factor)
        if self.rope_type == "yarn":
            return max(max_position_embeddings, int(self.original_max_position_embeddings * self.factor))
        return max_position_embeddings


_REQUIRED = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}


def parse_rope(raw: dict[str, Any], *, head_dim: int, max_position_embeddings: int, source: str) -> RopeConfig:
    """`raw` is the whole config.json. Raises ModelError, naming `source`, for what we could only compute wrongly."""
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise ModelError(f"{source}: rope_parameters is not an object.")
    given = {key: value for key, value in scaling.items() if value is not None}
    kind = given.get("rope_type") or given.get("type") or "default"
    if not isinstance(kind, str) or kind not in _REQUIRED:
        raise ModelError(f"{source}: the rope type {kind!r} is unknown; known are {', '.join(_REQUIRED)}.")
    missing = [key for key in _REQUIRED[kind] if key not in given]
    if missing:
        raise ModelError(f"{source}: the rope type {kind} needs {' and '.join(missing)}.")
    if raw.get("partial_rotary_factor", given.get("partial_rotary_factor", 1.0)) not in (None, 1, 1.0):
        raise ModelError(f"{source}: partial_rotary_factor is not supported for this architecture.")
    # The key beside rope_parameters wins over the one inside, and the trained length over none, as in transformers.
    original = raw.get("original_max_position_embeddings") or given.get("original_max_position_embeddings")
    given["original_max_position_embeddings"] = original or max_position_embeddings
    given.setdefault("rope_theta", raw.get("rope_theta") or 10000.0)
    if kind in ("yarn", "longrope") and "factor" not in given:
        given["factor"] = max(1.0, max_position_embeddings / given["original_max_position_embeddings"])
    rope = _validate({**given, "rope_type": kind}, source)
    for name in ("short_factor", "long_factor"):
        if kind == "longrope" and len(getattr(rope, name)) != head_dim // 2:
            raise ModelError(f"{source}: {name} must hold {head_dim // 2} numbers, half the head size.")
    if kind == "llama3" and rope.high_freq_factor <= rope.low_freq_factor:
        raise ModelError(f"{source}: high_freq_factor must be greater than low_freq_factor.")
    return rope


def _validate(values: dict[str, Any], source: str) -> RopeConfig:
    try:
        return RopeConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ModelError(f"{source}: rope setting {first['loc'][0]!r} is not usable: {first['msg']}.") from error
