"""Debian's part: programs this machine lacks, and root file systems for images where no image registry is in reach."""

import os
import shutil
from collections.abc import Mapping, Sequence

from console import Failure, ask, run, step
from lab import Lab, digest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_LEAN = ("doc", "man", "info", "locale")


def install(lab: Lab, programs: Mapping[str, str]) -> None:
    """Installs by apt what is missing; `programs` maps a command's name to its package."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = sorted({package for command, package in programs.items() if not shutil.which(command, path=path)})
    if missing:
        _get(lab, missing)


def browser(lab: Lab) -> None:
    """Chromium, for the tests of the gateway's page, and a font: without one it draws boxes."""
    if not any(shutil.which(name) for name in BROWSERS):
        _get(lab, ["chromium", "fonts-dejavu-core"])


def _get(lab: Lab, missing: Sequence[str]) -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failure(f"missing here: {', '.join(missing)}; install them, or use a machine with Docker and a registry")
    log = lab.log("apt")
    with step(f"installing {', '.join(missing)} by apt"):
        # An unreachable foreign source makes the update fail and harms nothing: the install decides.
        ask(["apt-get", "update", "-qq"], timeout=300)
        run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
            log=log,
            env={"DEBIAN_FRONTEND": "noninteractive"},
        )


def userland(lab: Lab, name: str, suite: str, packages: Sequence[str]) -> str:
    """An image of a Debian suite's root file system with `packages`; returns its tag, a hash of what it was made from.

    The tarball is kept in the cache, so a daemon that lost its images gets it back without a download.
    """
    options = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in _LEAN]
    key = digest([], suite, *packages, *options)
    tag = f"ryzanstein/userland-{name}:{key}"
    if ask(["docker", "image", "inspect", tag]) is not None:
        return tag
    tarball = lab.cache / "userland" / f"{name}-{key}.tar"
    if not tarball.exists():
        install(lab, {"mmdebstrap": "mmdebstrap"})
        with step(f"unpacking Debian {suite} with {', '.join(packages[:3])}{' ...' if len(packages) > 3 else ''}"):
            tarball.parent.mkdir(parents=True, exist_ok=True)
            part = tarball.with_suffix(".part")
            part.unlink(missing_ok=True)
            log = lab.log(f"userland-{name}")
            include = f"--include={','.join(packages)}"
            run(["mmdebstrap", "--format=tar", "--variant=minbase", *options, include, suite, part], log=log)
            os.replace(part, tarball)
    run(["docker", "import", tarball, tag], log=lab.log(f"userland-{name}"))
    return tag
