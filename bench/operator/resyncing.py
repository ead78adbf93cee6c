"""The operator's own program, with another time between two resyncs where BENCH_RESYNC_SECONDS says so."""

import cProfile
import os
import sys
import time

from ryzanstein_operator.__main__ import main
from ryzanstein_operator.handlers import loop

if __name__ == "__main__":
    if seconds := os.environ.get("BENCH_RESYNC_SECONDS"):
        setattr(loop, "RESYNC_SECONDS", float(seconds))  # noqa: B010 (it is Final to everyone else)
    if profile := os.environ.get("BENCH_PROFILE"):
        profiler = cProfile.Profile(time.thread_time)
        try:
            profiler.runcall(main)
        finally:
            profiler.dump_stats(f"{profile}.{os.environ['RYZANSTEIN_POD_NAME']}")
    else:
        sys.exit(main())
