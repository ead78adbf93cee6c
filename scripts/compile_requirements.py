#!/usr/bin/env python3
"""Pins every dependency, with hashes, from pyproject.toml's extras into requirements/*.txt (`make requirements`).

dev.txt is for the virtual environment (Python 3.11 on), the others for the images (Python 3.13). torch has a file of
its own: the worker's image takes it from its base where that has it, so worker.txt must not name it. No index address
is written: whatever index a machine is set up to use serves them.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
IMAGE_PYTHON = "3.13"
DEV_PYTHON = "3.11"
# What the Makefile itself runs inside the virtual environment.
DEV_TOOLS = ["uv", "pip", "setuptools>=77"]


def main() -> int:
    """Writes all files; returns the exit status."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    torch = [line for line in extras["worker"] if line.startswith("torch")]
    dev = [line for line in extras["dev"] if not line.startswith("ryzanstein[")]
    everything = sorted({line for part in ("operator", "gateway", "worker", "kubectl") for line in extras[part]})
    compile_file("dev", [*everything, *dev, *DEV_TOOLS], DEV_PYTHON)
    compile_file("operator", extras["operator"], IMAGE_PYTHON)
    compile_file("gateway", extras["gateway"], IMAGE_PYTHON)
    compile_file("worker", [line for line in extras["worker"] if line not in torch], IMAGE_PYTHON)
    compile_file("torch", torch, IMAGE_PYTHON, "--constraint", str(FOLDER / "worker.txt"))
    return 0


def compile_file(name: str, requirements: list[str], python: str, *more: str) -> None:
    """Pins one set of requirements; versions already pinned stay unless they no longer fit."""
    target = FOLDER / f"{name}.txt"
    uv = Path(sys.executable).parent / "uv"
    command = [uv, "pip", "compile", "-", "--quiet", "--universal", "--python-version", python, "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "-o", target, *more]
    subprocess.run(command, input="\n".join(requirements), text=True, check=True)
    address = next((line for line in target.read_text().splitlines() if "://" in line), None)
    if address is not None:
        raise SystemExit(f"{target.name} names an address: {address}")
    print(f"requirements/{name}.txt: {sum('==' in line for line in target.read_text().splitlines())} pins")


if __name__ == "__main__":
    sys.exit(main())
