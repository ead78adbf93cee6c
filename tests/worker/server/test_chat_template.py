"""Chat templates: Hugging Face's conventions, and nothing that a hostile one could do to the worker."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ryzanstein_worker.errors import ModelError
from ryzanstein_worker.server.chat_template import ChatTemplate, Turn, read_chat_template
from ryzanstein_worker.server.errors import ApiError
from ryzanstein_worker.server.template_process import environment
from ryzanstein_worker.server.tokenizer import SpecialTokens

CHATML = (
    "{% for message in messages %}\n"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}"
)
USER = Turn(role="user", content="hi")


@asynccontextmanager
async def _template(source: str | None, timeout_seconds: float = 30.0) -> AsyncIterator[ChatTemplate]:
    special = SpecialTokens(bos_token="<s>", eos_token="</s>")
    template = ChatTemplate(source, special, timeout_seconds=timeout_seconds)
    try:
        yield template
    finally:
        await template.close()


async def test_blocks_are_trimmed_and_the_prompt_opens_the_answer() -> None:
    async with _template(CHATML) as template:
        turns = [Turn(role="system", content=" brief "), USER]
        expected = "<|im_start|>system\nbrief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert await template.render(turns) == expected


async def test_a_conversation_of_the_model_shipped_with_transformers_conventions() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
        "{{ {'a': '<é>'} | tojson }}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% break %}"
        "{% endfor %}{{ strftime_now('%Y') | length }}"
    )
    async with _template(source) as template:
        assert await template.render([USER, USER]) == '<s>{"a": "<é>"}hi</s>4'


async def test_a_template_that_tells_the_date_tells_the_answers_own() -> None:
    """Whoever goes on with the answer, later and elsewhere, renders the same prompt."""
    async with _template("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}") as template:
        moments = [await template.render([USER], now=now) for now in (86_400, 86_400, 86_401)]
        assert moments[0] == moments[1] != moments[2]
        assert moments[0].startswith("1970-01-0")
        assert not (await template.render([USER])).startswith("1970")


def test_our_rendering_is_that_of_transformers() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "user", "content": "a <b> 'c'"}, {"role": "assistant", "content": " d "}]
    source = CHATML + "{{ messages | tojson(indent=2) }}{{ '%s' % bos_token }}"
    theirs = render_jinja_template([messages], chat_template=source, bos_token="<s>", add_generation_prompt=True)[0]
    ours = environment().from_string(source).render(messages=messages, bos_token="<s>", add_generation_prompt=True)
    assert [*theirs] == [ours]


async def test_a_model_without_a_template_says_so() -> None:
    async with _template(None) as template:
        with pytest.raises(ApiError, match="has no chat template"):
            await template.render([USER])


async def test_a_role_that_the_template_would_leave_out_is_refused() -> None:
    source = "{% for m in messages %}{% if m.role in ('user', 'assistant') %}{{ m.content }}{% endif %}{% endfor %}"
    async with _template(source) as template:
        assert await template.render([USER, Turn(role="assistant", content="yo")]) == "hiyo"
        for role in ("system", "developer", "tool"):
            with pytest.raises(ApiError, match="has no place for the role"):
                await template.render([Turn(role=role, content="x"), USER])


async def test_developer_is_system_where_the_template_does_not_know_it() -> None:
    source = "{% for m in messages %}[{{ m.role }}]{% endfor %}{% if false %}developer{% endif %}"
    turn = Turn(role="developer", content="x")
    async with _template(CHATML) as template:
        assert (await template.render([turn, USER])).startswith("<|im_start|>system")
    async with _template(source.replace("[{{ m.role }}]", "[{{ m.role }}{{ m.content }}]")) as template:
        assert await template.render([turn, USER]) == "[developerx][userhi]"


HOSTILE = {
    "raises with its own words": "{{ raise_exception('secret') }}",
    "undefined filter": "{{ x | nothing }}",
    "syntax": "{% for %}",
    "reaches for classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reaches through a format": "{{ '{0.__class__.__mro__}'.format(messages) + x.y }}",
    "imports": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "changes its input": "{{ messages.append(1) }}",
    "too large a range": "{% for i in range(1000000) %}{% endfor %}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "too long": "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "too much memory at once": "{{ ('x' * 10000000000) | length }}",
    "doubling": "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "padding": "{{ 'x'.ljust(10000000000) | length }}",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_template_gets_a_fixed_sentence(name: str) -> None:
    async with _template(HOSTILE[name]) as template:
        with pytest.raises(ApiError) as caught:
            await template.render([USER])
    assert caught.value.status == 400
    assert "secret" not in str(caught.value)
    # All but the one that cannot be compiled are refused by the renderer itself, within its memory and its time.
    assert ("could not be rendered" in str(caught.value)) == (name in ("syntax", "undefined filter"))


async def test_an_endless_template_is_stopped_and_the_next_request_is_served() -> None:
    loop = "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
    source = "{% if messages | length > 1 %}" + loop + "{% endif %}{{ messages[0].content }}"
    async with _template(source) as template:
        assert await template.render([USER]) == "hi"
        # Little time for the endless one alone: the start of a renderer takes its own on a busy machine.
        patience, template._timeout_seconds = template._timeout_seconds, 1.0
        start = time.monotonic()
        with pytest.raises(ApiError, match="could not be rendered"):
            await template.render([USER, USER])
        assert time.monotonic() - start < 10.0
        template._timeout_seconds = patience
        assert await template.render([USER]) == "hi"


WRITERS: dict[str, Callable[[Path], object]] = {
    "a file of its own": lambda d: (d / "chat_template.jinja").write_text("T"),
    "tokenizer_config": lambda d: (d / "tokenizer_config.json").write_text('{"chat_template": "T"}'),
    "a list of named ones": lambda d: (d / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "T"}]})
    ),
}


@pytest.mark.parametrize("place", WRITERS)
def test_the_template_is_found_where_models_keep_it(tmp_path: Path, place: str) -> None:
    assert read_chat_template(tmp_path) is None
    WRITERS[place](tmp_path)
    assert read_chat_template(tmp_path) == "T"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", b"\xff\xfe"),
        ("chat_template.jinja", b"x" * 2_000_000),
        ("tokenizer_config.json", b'{"chat_template": 5}'),
        ("tokenizer_config.json", b"[]"),
    ],
)
def test_a_template_that_is_none_is_refused_at_the_start(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError):
        read_chat_template(tmp_path)
