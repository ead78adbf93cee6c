"""Detokenizing as tokens come: whole characters only, and in sum exactly what decoding all at once gives."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models

from ryzanstein_worker.errors import ModelError
from ryzanstein_worker.server.tokenizer import Detokenizer, Tokenizer

PIECES = {"<unk>": 0, "<s>": 1, "</s>": 2, "\u2581Hello": 3, "\u2581world": 4, "!": 5, "<0xF0>": 6, "<0x9F>": 7,
          "<0x99>": 8, "<0x82>": 9, "\u2581": 10}  # fmt: skip


@pytest.fixture(scope="module")
def byte_level(model_dir: Path) -> Tokenizer:
    return Tokenizer(model_dir)


@pytest.fixture(scope="module")
def reference(model_dir: Path) -> HfTokenizer:
    return HfTokenizer.from_file(str(model_dir / "tokenizer.json"))


@pytest.fixture
def sentencepiece(tmp_path: Path) -> Tokenizer:
    """The shape of llama 2's: metaspace pieces with a fall back to bytes."""
    tokenizer = HfTokenizer(models.BPE(PIECES, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    return Tokenizer(tmp_path)


def test_pieces_add_up_to_the_whole_for_any_ids(byte_level: Tokenizer, reference: HfTokenizer) -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.integers(0, byte_level.vocab_size - 1), max_size=40))
    def check(ids: list[int]) -> None:
        whole = reference.decode(ids, skip_special_tokens=True)
        # What is not whole at the end is U+FFFD in the whole and nothing in the pieces.
        assert byte_level.decode(ids).rstrip("\ufffd") == whole.rstrip("\ufffd")

    check()


def test_texts_round_trip_and_no_piece_holds_half_a_character(byte_level: Tokenizer) -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=30))
    def check(text: str) -> None:
        ids = byte_level.encode(text, add_special_tokens=False)
        stream = Detokenizer(byte_level)
        pieces = [stream.push(token_id) for token_id in ids]
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)

    check()


def test_an_incomplete_character_at_the_end_is_not_shown(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("a🙂", add_special_tokens=False)
    assert byte_level.decode(ids[:-1]) == "a"


def test_special_tokens_are_not_text(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("a<|im_end|>b", add_special_tokens=False)
    assert len(ids) == 3
    assert byte_level.decode(ids) == "ab"
    assert byte_level.eos_token_ids == (0, 2)


def test_sentencepiece_bytes_and_spaces(sentencepiece: Tokenizer) -> None:
    assert sentencepiece.decode([1, 3, 4, 5, 6, 7, 8, 9, 2]) == " Hello world!🙂"
    assert sentencepiece.decode([3, 6, 7, 8]) == " Hello"
    assert sentencepiece.decode([3, 6, 7, 5]) == " Hello\ufffd!"
    assert sentencepiece.eos_token_ids == (2,)


def test_ids_outside_the_vocabulary_are_nothing(byte_level: Tokenizer) -> None:
    assert byte_level.decode([10**6, 5]) == byte_level.decode([5])


def test_logprob_texts_name_bytes_that_are_no_character(sentencepiece: Tokenizer) -> None:
    assert [sentencepiece.token_text(token_id) for token_id in (6, 3, 2)] == ["\\xf0", " Hello", "</s>"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "tokenizer.json is missing"),
        ("{}", "is not a tokenizer that can be read"),
        ("[" * 5000, "is not a tokenizer that can be read"),
    ],
)
def test_a_broken_tokenizer_is_told_in_a_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=sentence):
        Tokenizer(tmp_path)


def test_a_kind_whose_bytes_are_unknown_is_refused(tmp_path: Path) -> None:
    tokenizer = HfTokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="a decoder of a kind that is not supported"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_an_end_token_that_is_no_number_is_refused(tmp_path: Path, model_dir: Path, name: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
    (tmp_path / name).write_text('{"eos_token_id": "x"}')
    with pytest.raises(ModelError, match=f"eos_token_id of {name}"):
        Tokenizer(tmp_path)
