"""Programs out of Debian packages, unpacked into the cache and not installed: prometheus and promtool.

From the release that the images are made of, wherever this machine's sources know a Debian mirror: what the tests run
is then what the chart brings. Else from the sources as they are (Ubuntu has the package too). No root is needed.
"""

import os
import shutil
import tempfile
from pathlib import Path

from console import Failure, ask, run, step
from lab import Lab, digest

SUITE = "trixie"
"""The Debian release of every image's root file system."""
PROGRAMS = {"prometheus": "prometheus", "promtool": "promtool"}
"""A program's name and its package; where one package holds both, the other package need not exist."""
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def unpack(lab: Lab) -> dict[str, Path]:
    """The paths of all of PROGRAMS, unpacked where the cache has none of this release."""
    kept = lab.cache / "debian" / f"prometheus-{digest([], SUITE, *PROGRAMS)}"
    if not all((kept / name).exists() for name in PROGRAMS):
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise Failure(f"no apt here to take {' and '.join(PROGRAMS)} from; put them on PATH")
        with step(f"unpacking {' and '.join(PROGRAMS)} from Debian"):
            _fetch(lab, kept)
    return {name: kept / name for name in PROGRAMS}


def _fetch(lab: Lab, kept: Path) -> None:
    log = lab.log("debs")
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".part-") as part:
        options = _apt(Path(part))
        # An unreachable foreign source makes the update fail and harms nothing: the download decides.
        ask(["apt-get", *options, "update", "-qq"], timeout=300)
        for package in dict.fromkeys(PROGRAMS.values()):
            ask(["apt-get", *options, "download", package], cwd=Path(part), timeout=300)
        for archive in Path(part).glob("*.deb"):
            run(["dpkg-deb", "--extract", archive, f"{part}/root"], log=log)
        for name in PROGRAMS:
            found = Path(part, "root/usr/bin", name)
            if not found.exists():
                raise Failure(f"apt finds no Debian package with {name}; put {' and '.join(PROGRAMS)} on PATH", log)
            os.replace(found, kept / name)


def _apt(part: Path) -> list[str]:
    """Options for an apt with lists of its own, which leaves this machine's as they are."""
    for folder in ("lists/partial", "archives/partial"):
        (part / folder).mkdir(parents=True)
    settings = {"Dir::State::Lists": part / "lists", "Dir::Cache": part, "APT::Sandbox::User": "root"}
    mirror = _mirror()
    if mirror:
        sources = part / "sources.list"
        sources.write_text(f"deb [signed-by={_KEYRING}] {mirror} {SUITE} main\n")
        # Nothing counts as installed, or apt would weigh this machine's packages against the other release's.
        settings |= {"Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": Path("/dev/null")}
        settings |= {"Dir::State::status": Path("/dev/null")}
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _mirror() -> str | None:
    """The Debian mirror that this machine is set up with, which has every release."""
    form = "$(ORIGIN) $(LABEL) $(REPO_URI)"
    for line in (ask(["apt-get", "indextargets", "--format", form, "Created-By: Packages"]) or "").splitlines():
        if line.startswith("Debian Debian ") and _KEYRING.exists():
            return line.split()[2]
    return None
