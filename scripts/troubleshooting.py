#!/usr/bin/env python3
"""Writes docs/troubleshooting.md: what each condition may say, as the operator's code says it, and a remedy.

python scripts/troubleshooting.py
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))

from ryzanstein_operator.api.troubleshooting import render_troubleshooting  # noqa: E402 (needs no path, but sorts here)
from status_situations import event_examples, examples  # noqa: E402 (found by the path above)

if __name__ == "__main__":
    path = ROOT / "docs" / "troubleshooting.md"
    path.write_text(render_troubleshooting(examples(), event_examples()), encoding="utf-8")
    print(path)
