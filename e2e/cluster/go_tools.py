"""Programs from the Go module proxy: kind, helm, kubectl, and Kubernetes itself where no image of it can be had.

Each folder of modules/ pins one module graph (go.mod, go.sum). What was built is kept under a hash of that graph,
so a changed pin builds anew and an unchanged one costs nothing. Prometheus and its tool come from Debian (debs.py):
its module graph is the largest of all, and nobody is to wait for it to compile.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import debs
from console import Failure, ask, run, step
from lab import HERE, Lab, digest

CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
KUBERNETES = (*CONTROL_PLANE, "kubelet", "kubeadm", "kubectl")
PACKAGES = {
    **{name: ("kubernetes", f"k8s.io/kubernetes/cmd/{name}") for name in KUBERNETES},
    "etcd": ("etcd", "go.etcd.io/etcd/server/v3"),
    "coredns": ("coredns", "."),
    "kind": ("kind", "sigs.k8s.io/kind"),
    "helm": ("helm", "helm.sh/helm/v4/cmd/helm"),
}
NAMES = (*PACKAGES, *debs.PROGRAMS)
"""All that `provide` can bring."""


def kubernetes_version() -> str:
    """The version that modules/kubernetes pins, as v1.34.4."""
    for line in (HERE / "modules/kubernetes/go.mod").read_text().splitlines():
        words = line.split()
        if words[:1] == ["k8s.io/kubernetes"]:
            return words[1]
    raise Failure("modules/kubernetes/go.mod names no k8s.io/kubernetes")


def build(lab: Lab, names: Sequence[str]) -> dict[str, Path]:
    """The paths of these programs, all of one module, built where the cache has none of this pin."""
    module = PACKAGES[names[0]][0]
    folder = HERE / "modules" / module
    kept = lab.cache / "go" / f"{module}-{digest(p for p in folder.iterdir() if p.suffix in ('.mod', '.sum', '.go'))}"
    missing = [name for name in names if not (kept / name).exists()]
    if missing:
        with step(f"building {', '.join(missing)} from Go modules"):
            _compile(lab, folder, missing, kept)
    return {name: kept / name for name in names}


def _compile(lab: Lab, folder: Path, names: Sequence[str], kept: Path) -> None:
    if shutil.which("go") is None:
        raise Failure("Go is not installed; it is needed to build " + ", ".join(names) + " (Go >= 1.25)")
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".part-") as part:
        packages = [PACKAGES[name][1] for name in names]
        # One call for all of a module: shared packages compile once and both cores stay busy to the end.
        output = f"{part}/" if len(names) > 1 else f"{part}/{names[0]}"
        run(
            ["go", "build", "-trimpath", "-ldflags", _stamp(), "-o", output, *packages],
            log=lab.log(f"go-{folder.name}"),
            cwd=folder,
            env={"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"},
            timeout=1800,
        )
        for name in names:
            os.replace(f"{part}/{name}", kept / name)


def _stamp() -> str:
    """Kubernetes' programs refuse each other unless told which version they are."""
    version = kubernetes_version()
    minor = version.split(".")[1]
    words = ["-s", "-w"]
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        words += [f"-X {package}.gitVersion={version}", f"-X {package}.gitMajor=1", f"-X {package}.gitMinor={minor}"]
    return " ".join(words)


def provide(lab: Lab, *names: str, prefer_own: bool = False) -> None:
    """Puts programs within reach: those on PATH as they are, the others built and linked into `lab.bin`.

    `prefer_own` takes no program of the machine's own, for those whose version must be the pinned one. The links come
    first on this process's PATH afterwards.
    """
    lab.bin.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in names if prefer_own or (lab.bin / name).is_symlink() or not _usable(name)]
    compiled = [name for name in wanted if name in PACKAGES]
    for module in dict.fromkeys(PACKAGES[name][0] for name in compiled):
        _link(lab, build(lab, [name for name in compiled if PACKAGES[name][0] == module]))
    if len(compiled) < len(wanted):
        _link(lab, debs.unpack(lab))
    if str(lab.bin) not in os.environ["PATH"].split(":"):
        os.environ["PATH"] = f"{lab.bin}:{os.environ['PATH']}"


def _link(lab: Lab, programs: Mapping[str, Path]) -> None:
    for name, target in programs.items():
        link = lab.bin / name
        if link.resolve() != target:
            spare = link.with_name(f".{name}.new")
            spare.unlink(missing_ok=True)
            spare.symlink_to(target)
            os.replace(spare, link)


def _usable(name: str) -> bool:
    if name in debs.PROGRAMS:
        return ask([name, "--version"]) is not None
    return ask([name, "version", "--client"] if name == "kubectl" else [name, "version"]) is not None
