"""The operator's own program, with another time between two resyncs where BENCH_RESYNC_SECONDS says so."""

import os
import sys

from ryzanstein_operator.__main__ import main
from ryzanstein_operator.handlers import loop

if __name__ == "__main__":
    if seconds := os.environ.get("BENCH_RESYNC_SECONDS"):
        setattr(loop, "RESYNC_SECONDS", float(seconds))  # noqa: B010 (it is Final to everyone else)
    sys.exit(main())
