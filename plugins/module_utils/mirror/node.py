"""Makes the kind node image: Debian, what kind expects of a node, Kubernetes' programs, and Kubernetes' own images."""

from __future__ import annotations

import json
import pathlib
import shutil

from . import rootfs
from .engine import Job, StepError
from .oci import Entry, Layout, file_entries, tree_entries

STORE = "var/lib/containerd"
KIND_FILES = "images/base/files"  # of kind's own module
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
# Units of a machine that has hardware, consoles and users: a node has none
UNWANTED_UNITS = (
    "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "lib/systemd/system/multi-user.target.wants/*",
    "etc/systemd/system/*.wants/*",
    "lib/systemd/system/local-fs.target.wants/*",
    "lib/systemd/system/sockets.target.wants/*udev*",
    "lib/systemd/system/sockets.target.wants/*initctl*",
    "lib/systemd/system/basic.target.wants/*",
)
# Importing images needs the store and nothing else of containerd
IMPORT_CONFIG = """version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
"""
# Runs in the tree: containerd in the background, the import from standard input, a clean end so that its database is complete
IMPORT_SCRIPT = """
containerd --config /run/import.toml --log-level warn &
for attempt in $(seq 300); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
ctr -n k8s.io images import --no-unpack -
ctr -n k8s.io images ls -q
kill $!
wait $!
"""


def install(source: pathlib.Path, target: pathlib.Path, mode: int = 0o644) -> None:
    """Copy a file and make the directories above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def edit(path: pathlib.Path, old: str, new: str) -> None:
    """Replace a text that must be there."""
    text = path.read_text()
    if old not in text:
        raise StepError(f"{path} no longer says {old!r}: kind's files have changed, roles/mirror has to follow")
    path.write_text(text.replace(old, new))


def add_kind_files(tree: pathlib.Path, kind: pathlib.Path, own: pathlib.Path) -> None:
    """Put kind's files and the role's into a Debian tree."""
    files = kind / KIND_FILES
    for path in sorted(path for path in files.rglob("*") if path.is_file()):
        name = path.relative_to(files)
        if name.parts[0] != "LICENSES" and name.name != "clean-install":
            executable = name.parts[:2] == ("kind", "bin") or "bin" in name.parts[:3]
            install(path, tree / name, 0o755 if executable else 0o644)
    edit(tree / "etc/systemd/system/containerd.service", "ExecStart=/usr/local/bin/containerd", "ExecStart=/usr/bin/containerd")
    # a machine may not let its children's memory scores go lower than its own: the node stays within bounds
    edit(tree / "etc/containerd/config.toml", "restrict_oom_score_adj = false", "restrict_oom_score_adj = true")
    with (tree / "etc/containerd/config.toml").open("a") as config:
        config.write('\n[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "/etc/containerd/certs.d"\n')
    install(own / "hosts.toml", tree / "etc/containerd/certs.d/_default/hosts.toml")
    install(own / "runc-within-bounds", tree / "usr/local/sbin/runc", 0o755)
    install(own / "cni.conflist", tree / "etc/cni/net.d/10-mlops-platform.conflist")
    for name in ("default-cni.yaml", "default-storage.yaml"):
        install(own / name, tree / "kind/manifests" / name)
    for name in CNI_PLUGINS:
        install(tree / "usr/lib/cni" / name, tree / "opt/cni/bin" / name, 0o755)
    (tree / "etc/kubernetes/manifests").mkdir(parents=True, exist_ok=True)


def strip_units(tree: pathlib.Path) -> None:
    """Leave systemd nothing to start but what a node is for."""
    for pattern in UNWANTED_UNITS:
        for path in tree.glob(pattern):
            path.unlink()
    with (tree / "etc/systemd/journald.conf").open("a") as config:
        config.write("ReadKMsg=no\n")
    init = tree / "sbin/init"
    init.unlink(missing_ok=True)
    init.symlink_to("/lib/systemd/systemd")


def base_specification(text: str) -> str:
    """Return what containers start from: containerd's default, with kind's hook that hides the machine's product files."""
    specification = json.loads(text)
    specification.setdefault("hooks", {})["createContainer"] = [{"path": "/kind/bin/mount-product-files.sh"}]
    specification["process"].pop("rlimits", None)
    return json.dumps(specification)


def system(job: Job, tree: pathlib.Path, kind: pathlib.Path, own: pathlib.Path) -> None:
    """Make a node of a Debian tree."""
    add_kind_files(tree, kind, own)
    strip_units(tree)
    specification = tree / "etc/containerd/cri-base.json"
    specification.write_text(base_specification(rootfs.chroot(job, tree, ["ctr", "oci", "spec"], capture=True)))
    rootfs.chroot(job, tree, ["systemctl", "-q", "enable", "kubelet", "containerd", "undo-mount-hacks"])
    rootfs.chroot(job, tree, ["systemctl", "-q", "mask", "systemd-binfmt"])
    rootfs.clean(tree)


def kubernetes_entries(version: str, programs: pathlib.Path, crictl: pathlib.Path) -> list[Entry]:
    """Return the layer of Kubernetes' programs."""
    entries = [Entry("kind/version", f"v{version}".encode())]
    for name in ("kubeadm", "kubelet", "kubectl"):
        entries += file_entries(programs / name, f"usr/bin/{name}", 0o755)
    return entries + file_entries(crictl, "usr/local/bin/crictl", 0o755)


def image_store(job: Job, tree: pathlib.Path, work: pathlib.Path, layout: Layout, images: dict[str, dict]) -> list[Entry]:
    """Import images into a containerd store of the tree's own containerd; return the layer of that store."""
    (work / "run").mkdir()
    (work / "run/import.toml").write_text(IMPORT_CONFIG)
    (work / "store").mkdir()
    out = rootfs.chroot(
        job,
        tree,
        ["bash", "-ec", IMPORT_SCRIPT],
        binds={work / "store": STORE, work / "run": "run"},
        capture=True,
        stdin=layout.archive(images),
    )
    if missing := sorted(set(images) - set(out.split())):
        raise StepError(f"containerd has not imported {', '.join(missing)}")
    # content and names; the rest is the running containerd's own
    parts = ("io.containerd.content.v1.content/blobs", "io.containerd.metadata.v1.bolt")
    entries = [entry for entry in tree_entries(work / "store") if entry.name.startswith(parts)]
    for entry in entries:
        entry.name = f"{STORE}/{entry.name}"
    return [Entry(STORE, None, 0o711, b"5"), *entries]
