"""The node image where none can be pulled: Debian's userland around Kubernetes built from its own Go modules."""

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import debian
import go_tools
from console import Failure, ask, run, step
from lab import HERE, Lab, digest

# bookworm on both: its systemd (252) is the last that boots where the machine still has cgroup v1.
_SUITE = "bookworm"
_CONTROL_PLANE = ("iptables", "nftables", "ipset", "conntrack", "iproute2", "kmod", "catatonit", "ca-certificates")
_NODE = (
    *("systemd", "systemd-sysv", "dbus", "containerd", "runc", "containernetworking-plugins", "conntrack", "iptables"),
    *(
        "nftables",
        "iproute2",
        "ethtool",
        "util-linux",
        "mount",
        "kmod",
        "procps",
        "ca-certificates",
        "curl",
        "jq",
        "socat",
    ),
)


def ensure(lab: Lab) -> str:
    """The node image's tag, a hash of all it is made from; the image is built if the daemon does not hold it."""
    version = go_tools.kubernetes_version()
    parts = [path for folder in ("control-plane", "node") for path in (HERE / folder).iterdir()]
    pins = [path for name in ("kubernetes", "etcd", "coredns") for path in (HERE / "modules" / name).iterdir()]
    tag = f"ryzanstein/node:{version}-{digest([*parts, *pins], _SUITE, *_CONTROL_PLANE, *_NODE)}"
    with step(f"node image {tag}") as current:
        if ask(["docker", "image", "inspect", tag]) is not None:
            current.note = "reused"
            return tag
        # Debian's part waits for downloads while Go keeps the cores busy.
        with ThreadPoolExecutor(1) as pool:
            control_plane = pool.submit(debian.userland, lab, "control-plane", _SUITE, _CONTROL_PLANE)
            node = pool.submit(debian.userland, lab, "node", _SUITE, _NODE)
            programs = go_tools.build(lab, go_tools.KUBERNETES)
            programs |= go_tools.build(lab, ["etcd"]) | go_tools.build(lab, ["coredns"])
            _assemble(lab, tag, programs, control_plane.result(), node.result())
    return tag


def _assemble(lab: Lab, tag: str, programs: dict[str, Path], control_plane: str, node: str) -> None:
    log = lab.log("node-image")
    with step("assembling the node image"), tempfile.TemporaryDirectory(dir=lab.cache, prefix=".part-") as scratch:
        context = Path(scratch) / "control-plane"
        shutil.copytree(HERE / "control-plane", context)
        for name in (*go_tools.CONTROL_PLANE, "kubectl", "etcd", "coredns"):
            _link(programs[name], context)
        images = _kubeadm_images(programs["kubeadm"])
        for target in ("all", "coredns", "pause"):
            names = [image for name, image in images.items() if _target(name) == target]
            tags = [word for name in names for word in ("-t", name)]
            command = ["docker", "build", "-q", *tags, "--target", target, "--build-arg", f"USERLAND={control_plane}"]
            run([*command, context], log=log)
        context = Path(scratch) / "node"
        shutil.copytree(HERE / "node", context)
        (context / "images").mkdir()
        run(["docker", "save", "-o", context / "images/control-plane.tar", *images.values()], log=log)
        for name in ("kubelet", "kubeadm", "kubectl"):
            _link(programs[name], context)
        for name, placeholder, value in (
            ("default-cni.yaml", "@KUBE_PROXY@", images["kube-proxy"]),
            ("containerd.toml", "@PAUSE@", images["pause"]),
        ):
            file = context / name
            file.write_text(file.read_text().replace(placeholder, value))
        (context / "version").write_text(go_tools.kubernetes_version())
        run(["docker", "build", "-q", "-t", tag, "--build-arg", f"USERLAND={node}", context], log=log)


def _link(program: Path, folder: Path) -> None:
    (folder / program.name).hardlink_to(program)


def _target(name: str) -> str:
    return name if name in ("coredns", "pause") else "all"


def _kubeadm_images(kubeadm: Path) -> dict[str, str]:
    """The images that kubeadm expects, keyed by the last word of their repository."""
    listed = ask([kubeadm, "config", "images", "list", "--kubernetes-version", go_tools.kubernetes_version()])
    if listed is None:
        raise Failure(f"{kubeadm} does not list its images")
    return {image.rsplit(":", 1)[0].rsplit("/", 1)[1]: image for image in listed.split()}
