"""Makes Debian trees, and Python packages for the Python in them."""

from __future__ import annotations

import os
import pathlib
import shutil
import sys

from .engine import Job, StepError, remove_tree
from .oci import Entry, tree_entries

# What is of no use in an image, or differs from one installation of the same packages to the next
UNWANTED = (
    "var/cache/apt/archives",
    "var/cache/debconf",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
    "var/log",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "etc/machine-id",
    "etc/hostname",
    "etc/resolv.conf",
)
UNSEEN = ("proc", "sys", "dev", "run", "tmp")  # their content is the running system's
PYTHON_PACKAGES = "opt/python"


def debian_tree(job: Job, tree: pathlib.Path, suite: str, packages: list[str], mirror: str, packages_cache: pathlib.Path) -> None:
    """Install Debian packages into an empty directory."""
    if os.geteuid():
        raise StepError("a Debian tree can only be made by root (debootstrap)")
    packages_cache.mkdir(parents=True, exist_ok=True)
    job.call(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(packages)}",
            f"--cache-dir={packages_cache}",
            suite,
            tree,
            *([mirror] if mirror else []),
        ]
    )
    clean(tree)
    if (tree / "usr/bin/python3").exists():
        compile_python(job, tree, "usr/lib/python3", *(f"usr/lib/{path.name}" for path in (tree / "usr/lib").glob("python3.*")))


def clean(tree: pathlib.Path) -> None:
    """Empty the directories, and remove the files, that do not belong into an image."""
    for name in UNWANTED:
        path = tree / name
        if path.is_dir() and not path.is_symlink():
            for child in path.iterdir():
                remove_tree(child)
        else:
            path.unlink(missing_ok=True)
    for name in UNSEEN:
        path = tree / name
        if path.is_symlink():
            continue
        remove_tree(path)
        path.mkdir(mode=0o755)
    (tree / "tmp").chmod(0o1777)


def compile_python(job: Job, tree: pathlib.Path, *directories: str) -> None:
    """Compile Python sources once: layers carry no times, which is what Python would otherwise trust its compiled files by."""
    for directory in directories:
        for cache in list((tree / directory).rglob("__pycache__")):
            remove_tree(cache)
    # files that are not for this Python's version (tests, templates) do not compile and never did: that is no failure
    chroot(
        job,
        tree,
        ["python3", "-m", "compileall", "-qq", "-j0", "--invalidation-mode", "unchecked-hash", *(f"/{name}" for name in directories)],
        check=False,
    )


def chroot(job: Job, tree: pathlib.Path, command: list[str], *, binds: dict[pathlib.Path, str] | None = None, **options) -> str:
    """Run a command in a tree, with /proc and /dev, in mount and process namespaces of its own: nothing stays mounted or running."""
    mounts = 'mount -t proc proc "$0/proc"; mount --bind /dev "$0/dev"; '
    created = []
    for source, target in (binds or {}).items():
        if not (tree / target).exists():
            (tree / target).mkdir(parents=True)
            created.append(tree / target)
        mounts += f'mount --bind "{source}" "$0/{target}"; '
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    try:
        return job.call([*namespaces, "sh", "-ec", mounts + 'exec chroot "$0" "$@"', tree, *command], **options)
    finally:
        for path in created:
            path.rmdir()  # the tree is what it was


def installer(python_version: str | None) -> list[str]:
    """Return the start of the command that installs packages: uv's where it is there, else pip's."""
    uv = shutil.which("uv", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if uv:
        target = ["--python-version", python_version, "--python-platform", "x86_64-manylinux_2_28"] if python_version else []
        return [uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-build", *target]
    target = (
        [
            "--python-version",
            python_version,
            "--platform",
            "manylinux_2_28_x86_64",
            "--platform",
            "manylinux_2_17_x86_64",
            "--platform",
            "manylinux2014_x86_64",
        ]
        if python_version
        else []
    )
    return [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-compile",
        "--only-binary=:all:",
        *target,
    ]


def install_packages(job: Job, target: pathlib.Path, lock: pathlib.Path, python_version: str | None = None) -> None:
    """Install exactly the locked packages, each verified by its hash, into a directory."""
    with job.fresh(target) as work:
        job.call([*installer(python_version), "--no-deps", "--require-hashes", "--target", work, "-r", lock])
        (work / ".lock").unlink(missing_ok=True)


def python_layer(job: Job, tree: pathlib.Path, packages: pathlib.Path) -> list[Entry]:
    """Return the entries of a layer of installed Python packages, compiled by the Python of the tree that they are for."""
    chroot(
        job,
        tree,
        ["python3", "-m", "compileall", "-qq", "-j0", "--invalidation-mode", "unchecked-hash", f"/{PYTHON_PACKAGES}"],
        binds={packages: PYTHON_PACKAGES},
        check=False,
    )
    entries = tree_entries(packages)
    for entry in entries:
        entry.name, entry.uid, entry.gid = f"{PYTHON_PACKAGES}/{entry.name}", 0, 0
        entry.mode |= 0o444
        if entry.link and entry.source is None and entry.kind == b"1":
            entry.link = f"{PYTHON_PACKAGES}/{entry.link}"
    return entries
