"""The project's images: built when their content changed, loaded into the nodes that lack them.

A tag is a hash of all that goes into the image, so an unchanged tree builds, loads and rolls out nothing.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import archive
import cluster
import debian
from console import Failure, ask, run, say, step
from debs import SUITE
from engine import STOCK_BASE_IMAGE, Engine
from lab import ROOT, Lab, digest

PARTS = ("prometheus", "operator", "gateway", "worker")
"""In the Dockerfile's order; the worker's is the last."""
SIZE_LIMITS = {"prometheus": 200_000_000, "operator": 250_000_000, "gateway": 250_000_000}
_PROMETHEUS = ("prometheus", "ca-certificates")
_PYTHON = ("python3", "python3-venv", "ca-certificates", "tini")
_TORCH = (*_PYTHON, "python3-torch")


@dataclass(frozen=True)
class Image:
    """One part's image; `part` is also its target in the Dockerfile."""

    part: str
    tag: str

    @property
    def repository(self) -> str:
        return f"ryzanstein/{self.part}"

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}"


def ensure(lab: Lab, engine: Engine) -> list[Image]:
    """All images in the engine, each of this tree's content."""
    with step("images of operator, gateway, worker and Prometheus") as current:
        bases = _bases(lab, engine)
        images = [Image(part, _content(part, _bases_of(part, bases))) for part in PARTS]
        missing = [image for image in images if not _exists(image)]
        if not missing:
            current.note = "reused"
        for image in missing:
            _build(lab, engine, image, bases)
            _check_size(image)
    return images


def _bases(lab: Lab, engine: Engine) -> dict[str, str]:
    if not engine.offline:
        return {"BASE_IMAGE": STOCK_BASE_IMAGE}
    return {
        "BASE_IMAGE": debian.userland(lab, "python", SUITE, _PYTHON),
        "PROMETHEUS_BASE_IMAGE": debian.userland(lab, "prometheus", SUITE, _PROMETHEUS),
        "WORKER_BASE_IMAGE": debian.userland(lab, "torch", SUITE, _TORCH),
    }


def _bases_of(part: str, bases: dict[str, str]) -> dict[str, str]:
    """Those that this part's image comes from."""
    own = f"{part.upper()}_BASE_IMAGE"
    return {own: bases[own]} if own in bases else {"BASE_IMAGE": bases["BASE_IMAGE"]}


def _content(part: str, bases: dict[str, str]) -> str:
    """The tag: a hash of the recipe, the pins, the base images' names and the sources."""
    if part == "prometheus":
        return digest([ROOT / "scripts/prometheus_files.sh"], _recipe_of(part), *bases.values())
    recipe = [ROOT / "Dockerfile", ROOT / "scripts/install_in_image.sh", ROOT / "requirements" / f"{part}.txt"]
    if part == "worker":
        recipe.append(ROOT / "requirements/torch.txt")
    package = {"operator": "operator/ryzanstein_operator", "gateway": "gateway/ryzanstein_gateway"}.get(part)
    sources = [ROOT / "worker/ryzanstein_worker/__init__.py", ROOT / "worker/ryzanstein_worker/contract.py"]
    trees = [
        ROOT / (package or "worker/ryzanstein_worker"),
        *([] if part == "operator" else [ROOT / "proto/ryzanstein"]),
    ]
    for tree in trees:
        sources += [path for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return digest([*recipe, *dict.fromkeys(sources)], *(f"{key}={value}" for key, value in sorted(bases.items())))


def _recipe_of(target: str) -> str:
    """The Dockerfile's stages of one target, for an image that holds nothing of ours."""
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    return "\n".join(stage for stage in stages if f" AS {target}" in stage.partition("\n")[0])


def _exists(image: Image) -> bool:
    return ask(["docker", "image", "inspect", image.name]) is not None


def _build(lab: Lab, engine: Engine, image: Image, bases: dict[str, str]) -> None:
    log = lab.log(f"image-{image.part}")
    log.unlink(missing_ok=True)
    if engine.offline:
        # The legacy builder runs the stages above the target too, and theirs want their wheels.
        for part in PARTS[: PARTS.index(image.part) + 1]:
            _fetch_wheels(lab, part)
    with step(f"building {image.name}"):
        arguments = [word for key, value in bases.items() for word in ("--build-arg", f"{key}={value}")]
        run(["docker", "build", "--target", image.part, "-t", image.name, *arguments, ROOT], log=log, timeout=1800)


def _fetch_wheels(lab: Lab, part: str) -> None:
    """Wheels for the image's Python, each checked against its pinned hash, in build/wheels/<part>."""
    folder = ROOT / "build/wheels" / part
    pins = ROOT / "requirements" / f"{part}.txt"
    if not pins.exists():
        return
    mark = folder / "complete"
    key = digest([pins])
    if mark.exists() and mark.read_text() == key:
        return
    with step(f"fetching the {part}'s wheels"):
        for stale in folder.glob("*"):
            stale.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        cache = lab.cache / "wheels" / f"{part}-{key}"
        if not cache.exists():
            _download(lab, pins, cache)
        for wheel in cache.iterdir():
            (folder / wheel.name).hardlink_to(wheel) if _same_disk(wheel, folder) else _copy(wheel, folder)
        mark.write_text(key)


def _download(lab: Lab, pins: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    # Debian's python3 may come without pip; a virtual environment brings its own.
    tools = lab.cache / "pip"
    log = lab.log("wheels")
    if ask([sys.executable, "-m", "pip", "--version"]) is not None:
        python: Path | str = sys.executable
    else:
        python = tools / "bin/python"
        if not python.exists():
            debian.install(lab, {"python3-venv-is-no-command": "python3-venv"})
            run([sys.executable, "-m", "venv", tools], log=log)
    platforms = [word for name in ("2_34", "2_28", "2_17", "2014") for word in ("--platform", _manylinux(name))]
    command = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    run([*command, "--python-version", "3.13", *platforms, "--dest", part, "-r", pins], log=log)
    os.replace(part, target)


def _manylinux(version: str) -> str:
    return f"manylinux{'' if version == '2014' else '_'}{version}_{os.uname().machine}"


def _same_disk(file: Path, folder: Path) -> bool:
    return file.stat().st_dev == folder.stat().st_dev


def _copy(file: Path, folder: Path) -> None:
    (folder / file.name).write_bytes(file.read_bytes())


def _check_size(image: Image) -> None:
    size = int(ask(["docker", "image", "inspect", "-f", "{{.Size}}", image.name]) or 0)
    limit = SIZE_LIMITS.get(image.part)
    if limit is not None and size > limit:
        raise Failure(f"{image.name} has {size / 1e6:.0f} MB; its limit is {limit / 1e6:.0f} MB")
    say(f"   {image.name}: {size / 1e6:.0f} MB")


def load(lab: Lab, engine: Engine, images: list[Image]) -> None:
    """Puts the images into every worker node that lacks them, both nodes at once."""
    with step("loading images into the nodes") as current:
        nodes = cluster.nodes(lab, "worker")
        lacking = {node: [image for image in images if image.name not in _held(node)] for node in nodes}
        wanted = [image for image in images if any(image in missing for missing in lacking.values())]
        if not wanted:
            current.note = "reused"
        for image in wanted:
            places = [node for node in nodes if image in lacking[node]]
            if engine.offline:
                _load_thin(lab, image, places)
            else:
                command = ["kind", "load", "docker-image", image.name, "--name", lab.name, "--nodes", ",".join(places)]
                run(command, log=lab.log(f"load-{image.part}"))


def _held(node: str) -> set[str]:
    listed = ask(["docker", "exec", node, "ctr", "-n", "k8s.io", "images", "ls", "-q"])
    return {name.removeprefix("docker.io/") for name in (listed or "").split()}


def _load_thin(lab: Lab, image: Image, nodes: list[str]) -> None:
    """Only the layers that these nodes lack, through the directory that every node mounts."""
    log = lab.log(f"load-{image.part}")
    folder = lab.exchange / "images"
    saved, thin = folder / f"{image.part}.saved", folder / f"{image.part}.tar"
    command = ["ctr", "-n", "k8s.io"]
    try:
        run(["docker", "save", "-o", saved, image.name], log=log)
        held = [set((ask(["docker", "exec", node, *command, "content", "ls", "-q"]) or "").split()) for node in nodes]
        archive.thin(saved, image.name, set.intersection(*held), thin)
        load = [*command, "images", "import", f"/exchange/images/{thin.name}"]
        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(lambda node: run(["docker", "exec", node, *load], log=log), nodes))
    finally:
        saved.unlink(missing_ok=True)
        thin.unlink(missing_ok=True)
