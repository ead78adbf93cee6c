"""The termination log: the one sentence that Kubernetes shows for a container that could not start or go on."""

import os
from pathlib import Path

from ryzanstein_worker.contract import ENV_TERMINATION_LOG, TERMINATION_LOG

_MAX_BYTES = 4096  # what the kubelet reads


def write_termination_log(sentence: str) -> None:
    """Write `sentence` where the environment (or Kubernetes' default) says, if there is such a file to write.

    Never raises: the process is about to end with a code that says the same.
    """
    named = os.environ.get(ENV_TERMINATION_LOG)
    path = Path(named or TERMINATION_LOG)
    if not named and not path.exists():  # outside Kubernetes nobody asked for the file
        return
    data = sentence.encode(errors="replace")[:_MAX_BYTES].decode(errors="ignore").encode()
    try:
        path.write_bytes(data)
    except OSError:
        return
