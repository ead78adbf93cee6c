"""The command line: flags as kubectl names them, one subcommand each, exit statuses, and what Ctrl-C leaves behind."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Sequence
from importlib.metadata import version

from ryzanstein_kubectl.commands import drain, logs, plan, status, top
from ryzanstein_kubectl.model.errors import CommandError
from ryzanstein_operator.cluster.client import ApiError

EXIT_INTERRUPTED = 130
COMMANDS = (status, top, logs, plan, drain)


def run(argv: Sequence[str]) -> int:
    """Runs one command. Returns the exit status: 0 done, 1 not done, 2 wrong words; `plan` has its own."""
    arguments = parser().parse_args(argv)
    failed = int(arguments.error_status)
    try:
        return asyncio.run(_alone(arguments.run(arguments)))
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status if error.status != 1 else failed
    except ApiError as error:
        print(f"error: {sentence_of(error)}", file=sys.stderr)
        return failed
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


async def _alone(command: Awaitable[int]) -> int:
    """The command's result; the first of several faults stands for all of them."""
    try:
        return await command
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


def sentence_of(error: ApiError) -> str:
    """What the API server said, and what to do about it."""
    if error.status == 0:
        return f"{error.sentence.rstrip('.')}; check --kubeconfig and --context."
    if error.status == 401:
        return "The API server does not take your credentials; log in again, or choose another --context."
    if error.status == 403:
        return f"{error.sentence.rstrip('.')}; docs/kubectl.md lists the rights that each command needs."
    return f"The API server answers {error.status}: {error.sentence}"


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    made = argparse.ArgumentParser(
        "kubectl ryzanstein", description="InferenceServices: what runs, how well, and what would change."
    )
    made.add_argument("--version", action="version", version=version("ryzanstein"))
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=module.EXAMPLES, parents=[_common()],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.set_defaults(run=module.run, error_status=getattr(module, "EXIT_ERROR", 1))
        module.add_arguments(command)
    return made


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("cluster")
    group.add_argument("-n", "--namespace", default="", help="default: that of the kubeconfig's context")
    group.add_argument("--context", default="", help="the kubeconfig's context to use")
    group.add_argument("--kubeconfig", default="", help="default: KUBECONFIG, else ~/.kube/config")
    common.add_argument("-o", "--output", choices=("text", "json"), default="text", help="default: %(default)s")
    return common
