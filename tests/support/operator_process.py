"""`python -m ryzanstein_operator` as a process of its own, with its log, its probes and a deadline on each wait."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ports import free_port

PROBE_SECONDS = 15.0
"""Where nothing listens, a probe is refused at once; a process that the machine lets wait answers late."""


class OperatorProcess:
    """Started by its construction. End it."""

    def __init__(self, environment: Mapping[str, str], log: Path, module: str = "ryzanstein_operator") -> None:
        self.log, self.port, self.demand_port = log, free_port(), free_port()
        command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--demand-port", str(self.demand_port)]
        with log.open("ab") as stream:
            self.process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=stream)

    def probe(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PROBE_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    @property
    def leads(self) -> bool:
        return "leading" in self.probe("/health/ready")[1]

    @property
    def writes(self) -> int:
        """How many writes the API server has taken from it."""
        samples = re.findall(r"^ryzanstein_operator_writes_total\{.*\} (\S+)$", self.probe("/metrics")[1], re.MULTILINE)
        return int(sum(float(sample) for sample in samples))

    def records(self) -> list[dict[str, Any]]:
        """Its log; every line must be JSON. Of one that lives, a line that is just being written is left out."""
        lives, text = self.process.poll() is None, self.log.read_text()
        whole = text[: text.rfind("\n") + 1] if lives else text
        return [json.loads(line) for line in whole.splitlines()]

    def rest(self, seconds: float = 3.0, limit: float = 60.0) -> int:
        """Wait until it has written nothing for `seconds`; gives the number of its writes."""
        deadline, count = time.monotonic() + limit, -1
        while count != (now := self.writes):
            assert time.monotonic() < deadline, "the operator never came to rest"
            count = now
            time.sleep(seconds)
        return count

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; gives the exit status and the seconds it took."""
        started = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(40), time.monotonic() - started

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
