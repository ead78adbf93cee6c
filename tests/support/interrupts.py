"""Ctrl-C for what the tests start."""

import signal


def hear() -> None:
    """For `preexec_fn`: whoever runs the tests in the background of a script has them, and so what they start, ignore
    SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
