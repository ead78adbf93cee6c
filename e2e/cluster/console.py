"""What the user sees: a line for each step with its time and, when a step fails, the one log that matters.

Knows nothing of clusters. Standard library only, like all of this folder: no virtual environment need exist yet.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_print_lock = threading.Lock()


class Failure(Exception):  # noqa: N818 - reads as what it is: the step failed, and this is what to tell the user
    """A step failed. ``str()`` is the sentence for the user; `log` is the log whose end explains it."""

    def __init__(self, sentence: str, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.log = log


def say(line: str) -> None:
    """Prints one line whole, from any thread."""
    with _print_lock:
        print(line, flush=True)


@dataclass
class Step:
    """A running step; `note` says in a word how it went ("reused")."""

    title: str
    started: float = field(default_factory=time.monotonic)
    note: str = ""


@contextlib.contextmanager
def step(title: str) -> Iterator[Step]:
    """Announces a step, and says how long it took when it ends."""
    current = Step(title)
    say(f"-> {title}")
    try:
        yield current
    except BaseException:
        say(f"!! {title}: not done after {time.monotonic() - current.started:.1f} s")
        raise
    note = f", {current.note}" if current.note else ""
    say(f"ok {title}: {time.monotonic() - current.started:.1f} s{note}")


def run(
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 900,
) -> None:
    """Runs a command with its output going to `log`; raises Failure with that log if it does not end well."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in argv]
    with log.open("ab") as output:
        output.write(f"$ {' '.join(words)}\n".encode())
        output.flush()
        try:
            code = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                timeout=timeout,
                check=False,
            ).returncode
        except FileNotFoundError:
            raise Failure(f"{words[0]} is not installed") from None
        except subprocess.TimeoutExpired:
            raise Failure(f"{' '.join(words[:3])} did not end within {timeout:.0f} s", log) from None
    if code != 0:
        raise Failure(f"{' '.join(words[:3])} ended with status {code}", log)


def ask(
    argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 60
) -> str | None:
    """A command's standard output, or None when it fails, hangs or does not exist."""
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def explain(failure: Failure) -> None:
    """Prints a failure, with the end of the log that explains it."""
    say(f"\nFAILED: {failure}")
    if failure.log is not None and failure.log.exists():
        lines = failure.log.read_text(errors="replace").splitlines()
        say(f"--- the last lines of {failure.log}")
        say("\n".join(lines[-40:]))
    sys.stdout.flush()
