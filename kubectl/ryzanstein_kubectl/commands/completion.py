"""What may follow the words typed so far, as kubectl's own completion asks for it (`kubectl_complete-ryzanstein`).

The last word is the one being typed. Names of services are asked for with the user's rights, and only for a moment.
"""

import argparse
import asyncio
import contextlib
import itertools
from collections.abc import Sequence

from ryzanstein_kubectl.cluster.look import Scope, services_of
from ryzanstein_kubectl.cluster.session import Access, Session
from ryzanstein_kubectl.commands.line import parser
from ryzanstein_kubectl.model.errors import CommandError
from ryzanstein_operator.cluster.client import ApiError

ASK_SECONDS = 2.0
NO_FILES = ":4"
"""Cobra's directive: offer no file names besides."""


def complete_words(words: Sequence[str]) -> list[str]:
    """The words that fit, and how the shell is to treat them."""
    typed, commands = (words[-1] if words else ""), _commands()
    if len(words) <= 1:
        return [*_starting(commands, typed), NO_FILES]
    command = commands.get(words[0])
    if command is None:
        return [NO_FILES]
    if typed.startswith("-"):
        flags = [flag for action in command._actions for flag in action.option_strings if flag.startswith("--")]
        return [*_starting(flags, typed), NO_FILES]
    return [*_starting(asyncio.run(_names(words)), typed), NO_FILES]


def _commands() -> dict[str, argparse.ArgumentParser]:
    (group,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(group.choices)


def _starting(found: Sequence[str] | dict[str, argparse.ArgumentParser], typed: str) -> list[str]:
    return sorted(word for word in found if word.startswith(typed))


async def _names(words: Sequence[str]) -> list[str]:
    """The services' names; none where they cannot be had, since a shell's prompt must not show an error."""
    values = {
        flag: value
        for flag, value in itertools.pairwise(words)
        if flag in ("-n", "--namespace", "--context", "--kubeconfig")
    }
    access = Access(
        kubeconfig=values.get("--kubeconfig", ""),
        context=values.get("--context", ""),
        namespace=values.get("-n") or values.get("--namespace", ""),
    )
    with contextlib.suppress(CommandError, ApiError, TimeoutError):
        async with asyncio.timeout(ASK_SECONDS):
            session = await Session.open(access)
            try:
                return [item["metadata"]["name"] for item in await services_of(session, Scope(session.namespace))]
            finally:
                await session.close()
    return []
