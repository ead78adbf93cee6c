"""A conversation as the one prompt the model was trained on: the model's own chat template, and no other.

Templates of clients are refused by not being read at all. The template runs in a process of its own
(`template_process`), which is killed when it takes too long and started anew for the next request.
"""

import asyncio
import contextlib
import json
import logging
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ryzanstein_worker.errors import ModelError
from ryzanstein_worker.server.errors import ApiError
from ryzanstein_worker.server.template_process import MAX_OUTPUT_CHARS, frame
from ryzanstein_worker.server.tokenizer import SpecialTokens, read_tokenizer_config

MAX_TEMPLATE_CHARS = 1 << 20
_PROBE = "\u2042probe\u2042"
_FAILED = "chat_template_failed"

_log = logging.getLogger(__name__)


class Turn(BaseModel):
    """One message as templates see it: the content is text, its parts already joined."""

    model_config = ConfigDict(frozen=True)

    role: str
    content: str
    name: str | None = None
    tool_call_id: str | None = None


def read_chat_template(model_dir: Path) -> str | None:
    """The template's source: chat_template.jinja, else tokenizer_config.json's. None where the model has none.

    Raises:
        ModelError: it cannot be read, or is larger than a template can reasonably be.
    """
    source: object
    path = model_dir / "chat_template.jinja"
    try:
        source = path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, ValueError):
        raise ModelError("chat_template.jinja cannot be read as UTF-8.") from None
    if source is None:
        source = read_tokenizer_config(model_dir).get("chat_template")
    if isinstance(source, list):  # several named ones: the one called default
        named = {item.get("name"): item.get("template") for item in source if isinstance(item, dict)}
        source = named.get("default")
    if source is None:
        return None
    if not isinstance(source, str) or len(source) > MAX_TEMPLATE_CHARS:
        raise ModelError(f"The model's chat template is not a text of at most {MAX_TEMPLATE_CHARS} characters.")
    return source


class ChatTemplate:
    """Renders conversations. One at a time; a render that is late costs only itself."""

    def __init__(self, source: str | None, special: SpecialTokens, *, timeout_seconds: float = 5.0) -> None:
        self._source = source
        self._special = {name: text or "" for name, text in special.model_dump().items()}
        self._timeout_seconds = timeout_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._roles: dict[str, bool] = {}

    async def render(self, turns: Sequence[Turn], *, add_generation_prompt: bool = True, now: int | None = None) -> str:
        """The prompt of a conversation, special tokens included. `now` is the date that it may tell, Unix seconds:
        at another time, on another replica, the same gives the same prompt.

        Raises:
            ApiError: 400 if the model has no template, or its template refuses these messages or their roles.
        """
        if self._source is None:
            raise ApiError(400, "This model has no chat template; use /v1/completions.", param="messages")
        # Templates written before the role existed know its older name.
        rename = {} if "developer" in self._source else {"developer": "system"}
        turns = [turn.model_copy(update={"role": rename.get(turn.role, turn.role)}) for turn in turns]
        for role in {turn.role for turn in turns} - {"user"}:
            if not await self._has_place_for(role):
                raise ApiError(400, f"The model's chat template has no place for the role '{role}'.", param="messages")
        return await self._render(turns, add_generation_prompt, now)

    async def warm_up(self) -> None:
        """Start the renderer, so that the first request need not wait for it."""
        if self._source is None:
            return
        try:
            await self._has_place_for("system")
        except ApiError as error:
            _log.warning(str(error))

    async def close(self) -> None:
        """End the renderer's process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    async def _has_place_for(self, role: str) -> bool:
        """Tried out once a role, for many templates silently leave out a message whose role they do not know."""
        if role not in self._roles:
            user = Turn(role="user", content="x")
            probe = Turn(role=role, content=_PROBE)
            before = {"system": [], "developer": [], "tool": [user, Turn(role="assistant", content="x")]}
            turns = [*before.get(role, [user]), probe, user]
            try:
                self._roles[role] = _PROBE in await self._render(turns, False)
            except ApiError as error:
                if error.body.error.code == _FAILED:  # says nothing about the role
                    raise
                self._roles[role] = False
        return self._roles[role]

    async def _render(self, turns: Sequence[Turn], add_generation_prompt: bool, now: int | None = None) -> str:
        variables = {
            "messages": [turn.model_dump(exclude_none=True) for turn in turns],
            "add_generation_prompt": add_generation_prompt,
            **self._special,
        }
        answer = await self._ask({"now": int(time.time()) if now is None else now, "variables": variables})
        text = answer.get("text")
        if text is not None:
            return text
        if answer.get("error") == "too_long":
            raise ApiError(400, f"The prompt is longer than {MAX_OUTPUT_CHARS} characters.", param="messages")
        raise ApiError(400, "The model's chat template does not accept these messages.", param="messages")

    async def _ask(self, question: Mapping[str, object]) -> dict[str, str]:
        async with self._turn:
            done = False
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    answer = await self._exchange(question)
                done = True
            except (TimeoutError, OSError, asyncio.IncompleteReadError):
                sentence = "The model's chat template could not be rendered."
                raise ApiError(400, sentence, param="messages", code=_FAILED) from None
            finally:
                if not done:  # also when the client left: what the process would answer belongs to nobody
                    await self.close()
        return answer

    async def _exchange(self, question: Mapping[str, object]) -> dict[str, str]:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ryzanstein_worker.server.template_process",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 16,
            )
            assert process.stdin is not None
            process.stdin.write(frame(self._source))
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(frame(question))
        await process.stdin.drain()
        (length,) = struct.unpack(">I", await process.stdout.readexactly(4))
        answer: dict[str, str] = json.loads(await process.stdout.readexactly(length))
        return answer
