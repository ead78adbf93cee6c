#!/usr/bin/env python3
"""Prints the coverage of the last fast tests and fails when a part is below its floor."""

import subprocess
import sys
from pathlib import Path

COVERAGE = Path(sys.executable).parent / "coverage"
# The worker's is lower: what its ranks and pods say to one another takes real processes, which the fast tests have not.
FLOORS = {"operator": 90, "gateway": 90, "worker": 82, "kubectl": 85}


def main() -> int:
    """Returns the exit status: 1 when any part is below its floor."""
    subprocess.run([COVERAGE, "combine", "--quiet"], check=False)  # nothing to combine when pytest-cov has done it
    below = []
    for part, floor in FLOORS.items():
        include = f"--include=*/ryzanstein_{part}/*"
        subprocess.run([COVERAGE, "report", include], check=True)
        total = subprocess.run(
            [COVERAGE, "report", include, "--format=total"], check=True, capture_output=True, text=True
        )
        if int(total.stdout) < floor:
            below.append(f"{part}: {total.stdout.strip()} % is below {floor} %")
    print("\n".join(below) or "coverage is above each floor: " + ", ".join(f"{k} {v} %" for k, v in FLOORS.items()))
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
