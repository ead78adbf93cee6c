"""Starts and stops the forwarder (forward.py), which lets the user's own shell reach into the private namespace."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from console import Failure, step
from lab import HERE, Lab


def _pid_file(lab: Lab) -> Path:
    return lab.state / "forward.pid"


def _running(lab: Lab) -> int | None:
    """The live forwarder's process; None when it is dead or sits in a namespace that has since been made anew."""
    try:
        pid = int(_pid_file(lab).read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        inside = os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(lab.netns).st_ino
    except (OSError, ValueError):
        return None
    wanted = [str(lab.api_port).encode(), str(lab.gateway_port).encode()]
    return pid if inside and any(word.endswith(b"forward.py") for word in words) and words[-3:-1] == wanted else None


def start(lab: Lab) -> None:
    """Makes 127.0.0.1's API server and gateway ports lead into the namespace."""
    with step(f"forwarding 127.0.0.1:{lab.api_port} and 127.0.0.1:{lab.gateway_port} into the namespace") as current:
        if _running(lab) is not None:
            current.note = "reused"
            return
        stop(lab)
        log = lab.log("forward")
        log.parent.mkdir(parents=True, exist_ok=True)
        ports = [str(lab.api_port), str(lab.gateway_port)]
        command = [sys.executable, str(HERE / "forward.py"), f"--netns={lab.netns}", f"--pid-file={_pid_file(lab)}"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *ports],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + 15
        while _running(lab) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failure(
                    f"cannot listen on 127.0.0.1:{' or '.join(ports)} (RYZANSTEIN_API_PORT, "
                    "RYZANSTEIN_GATEWAY_PORT choose others)",
                    log,
                )
            time.sleep(0.05)


def stop(lab: Lab) -> None:
    """Ends the forwarder, if it runs."""
    try:
        pid = int(_pid_file(lab).read_text())
        if b"forward.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        pass
    _pid_file(lab).unlink(missing_ok=True)
