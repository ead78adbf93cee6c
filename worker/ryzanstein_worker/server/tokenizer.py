"""Text to token ids and back. Knows the model directory's tokenizer files; nothing of HTTP, templates, the engine.

Detokenizing works on bytes: each token id has fixed bytes, and an incremental UTF-8 decoder holds back what is not
yet a whole character. So a stream costs O(1) a token, never shows half a character, and cannot fall into the traps
of decoding a sliding window of ids.
"""

import codecs
import json
import math
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import Tokenizer as HfTokenizer

from ryzanstein_worker.errors import ModelError

_SENTENCEPIECE_SPACE = "\u2581"


class SpecialTokens(BaseModel):
    """What tokenizer_config.json says of begin, end and padding; each as its text."""

    model_config = ConfigDict(frozen=True)

    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None


class Tokenizer:
    """One model's tokenizer. Thread-safe: nothing changes after it is made.

    Raises:
        ModelError: a file is missing, not JSON, or of a kind whose bytes we cannot derive.
    """

    def __init__(self, model_dir: Path) -> None:
        path = model_dir / "tokenizer.json"
        try:
            self._hf = HfTokenizer.from_file(str(path))
            layout = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(f"{path.name} is missing in the model directory.") from None
        except Exception:
            # The tokenizers library raises bare Exception for a missing and for a malformed file alike.
            reason = "is not a tokenizer that can be read" if path.is_file() else "is missing in the model directory"
            raise ModelError(f"{path.name} {reason}.") from None
        self.special = _special_tokens(model_dir)
        self._added = {token.id: token for token in map(_AddedToken.model_validate, layout.get("added_tokens") or [])}
        self._byte_level = _is_byte_level(layout.get("decoder"))
        vocab = self._hf.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        self.longest_token = max(map(len, vocab), default=1)
        self.eos_token_ids = self._eos_token_ids(model_dir)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text. Releases the GIL, so a long text belongs into a thread."""
        ids: list[int] = self._hf.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def least_tokens(self, text: str) -> int:
        """A lower bound of the number of tokens, without tokenizing: no token is longer than the longest."""
        return math.ceil(len(text) / max(1, self.longest_token))

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token stands for, special tokens included; empty for an id outside the vocabulary."""
        token = self._hf.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._added:
            return self._added[token_id].content.encode()
        if self._byte_level:
            table = _byte_level_table()
            return b"".join(table[c] if c in table else c.encode() for c in token)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        return token.replace(_SENTENCEPIECE_SPACE, " ").encode()

    def is_special(self, token_id: int) -> bool:
        """Whether the token steers (end of turn, begin of text) and is no part of the text shown."""
        added = self._added.get(token_id)
        return added is not None and added.special

    def token_text(self, token_id: int) -> str:
        """One token as text, for logprobs; bytes that are no whole character appear as \\xNN."""
        return self.token_bytes(token_id).decode("utf-8", errors="backslashreplace")

    def decode(self, token_ids: list[int]) -> str:
        """The text of a whole list of ids, special tokens left out."""
        stream = Detokenizer(self)
        return "".join(map(stream.push, token_ids))

    def _eos_token_ids(self, model_dir: Path) -> tuple[int, ...]:
        """The ids that end a generation: generation_config.json's, else config.json's, and the tokenizer's own."""
        found: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            found = _EosTokens.read(model_dir / name)
            if found:
                break
        if self.special.eos_token is not None:
            own = self._hf.token_to_id(self.special.eos_token)
            found |= set() if own is None else {own}
        return tuple(sorted(found))


class Detokenizer:
    """Turns one sequence's ids into text as they come. What it returned is never taken back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that became whole with this token; empty for special tokens and for half a character.

        Bytes that can never become a character give U+FFFD, as in decoding the whole; bytes that still might
        become one at the end of the sequence are dropped.
        """
        if self._tokenizer.is_special(token_id):
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))


class _AddedToken(BaseModel):
    id: int
    content: str
    special: bool = False


class _EosTokens(BaseModel):
    eos_token_id: int | list[int] | None = None

    @classmethod
    def read(cls, path: Path) -> set[int]:
        if not path.is_file():
            return set()
        try:
            value = cls.model_validate_json(path.read_bytes()).eos_token_id
        except (ValidationError, OSError):
            raise ModelError(f"eos_token_id of {path.name} cannot be read.") from None
        return set() if value is None else {value} if isinstance(value, int) else set(value)


def read_tokenizer_config(model_dir: Path) -> dict[str, object]:
    """tokenizer_config.json as it is; empty where there is none. Raises ModelError if it is no JSON object."""
    path = model_dir / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ModelError(f"{path.name} is not valid JSON.") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path.name} is not a JSON object.")
    return config


def _special_tokens(model_dir: Path) -> SpecialTokens:
    config = read_tokenizer_config(model_dir)
    texts: dict[str, str] = {}
    for name in SpecialTokens.model_fields:
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            texts[name] = text
    return SpecialTokens(**texts)


def _is_byte_level(decoder: object) -> bool:
    """Whether tokens are GPT-2's byte letters (llama 3, qwen, mistral-nemo) rather than sentencepiece (llama 2)."""
    kinds = {part.get("type") for part in _flatten(decoder)}
    if "ByteLevel" in kinds:
        return True
    if kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"} and kinds & {"Replace", "Metaspace"}:
        return False
    raise ModelError("tokenizer.json has a decoder of a kind that is not supported; ByteLevel and Metaspace are.")


def _flatten(decoder: object) -> list[dict[str, object]]:
    if not isinstance(decoder, dict):
        return []
    if decoder.get("type") != "Sequence":
        return [decoder]
    parts = decoder.get("decoders")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


@lru_cache(maxsize=1)
def _byte_level_table() -> dict[str, bytes]:
    """GPT-2's letters for bytes: printable Latin-1 stands for itself, the other 68 for U+0100 onwards, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(others)}
