#!/usr/bin/env python3
"""Make the project's virtual environment: `python3 bootstrap.py`.

Needs nothing but Python 3.11 to 3.13. Installs exactly what requirements.txt locks (each file checked against its
sha256): first uv, with pip, then everything else, with uv. A stamp makes a second call free; a call that was interrupted
is simply continued by the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.txt"
STAMP = VENV / "requirements.sha256"
PYTHONS = ("3.13", "3.12", "3.11")
# Certificates of the system, so that an authority added to this machine (a company's, say) is trusted by uv as well.
ENVIRONMENT = {**os.environ, "UV_SYSTEM_CERTS": "1", "VIRTUAL_ENV": str(VENV), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def say(text: str) -> None:
    """Show one line of progress."""
    print(f"bootstrap: {text}", flush=True)


def run(*command: str | Path) -> None:
    """Run a command; leave with its exit code where it fails."""
    code = subprocess.run(command, env=ENVIRONMENT, check=False).returncode
    if code:
        sys.exit(f"bootstrap: failed ({code}): {' '.join(map(str, command))}")


def find_python() -> str:
    """Return a Python the project runs on: the one that runs this, else a newer or older one on PATH."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" in PYTHONS:
        return sys.executable
    for version in PYTHONS:
        if found := shutil.which(f"python{version}"):
            return found
    sys.exit(
        f"bootstrap: Python 3.11, 3.12 or 3.13 is needed; python3 is {sys.version.split()[0]} and no other is on PATH.\n"
        "Install one (Debian, Ubuntu: apt-get install python3.12 python3.12-venv) and run this again."
    )


def ensure_venv_module(python: str) -> None:
    """Install Debian's python3-venv where the interpreter comes without ensurepip."""
    if not subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode:
        return
    name = f"{sys.version_info.major}.{sys.version_info.minor}" if python == sys.executable else Path(python).name.removeprefix("python")
    package = f"python{name}-venv"
    if os.geteuid() or not shutil.which("apt-get"):
        sys.exit(f"bootstrap: {python} has no ensurepip. Remedy (as root, Debian or Ubuntu): apt-get install {package}")
    say(f"installing {package}")
    ENVIRONMENT["DEBIAN_FRONTEND"] = "noninteractive"
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-y", "-qq", package)


def install_uv(python: Path) -> None:
    """Install uv alone with pip, at the version and hashes of the lock."""
    lines = LOCK.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("uv=="))
    end = next(i for i in range(start, len(lines)) if not lines[i].endswith("\\"))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as only_uv:
        only_uv.write("\n".join(lines[start : end + 1]) + "\n")
        only_uv.flush()
        run(python, "-m", "pip", "install", "-q", "--require-hashes", "--no-deps", "-r", only_uv.name)


def main() -> None:
    """Bring .venv to what requirements.txt says."""
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    python = VENV / "bin" / "python"
    if STAMP.exists() and STAMP.read_text() == wanted and python.exists():
        return
    with open(ROOT / ".bootstrap.lock", "w") as lock:  # two calls at once: the second waits, and finds the work done
        fcntl.flock(lock, fcntl.LOCK_EX)
        if STAMP.exists() and STAMP.read_text() == wanted and python.exists():
            return
        STAMP.unlink(missing_ok=True)
        if not python.exists():  # absent, or its interpreter was removed from the machine
            base = find_python()
            ensure_venv_module(base)
            say(f"creating {VENV.name} with {base}")
            run(base, "-m", "venv", "--clear", VENV)
        elif subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
            run(find_python(), "-m", "venv", "--clear", VENV)  # an interrupted creation
        say("installing the locked packages")
        install_uv(python)
        run(VENV / "bin" / "uv", "pip", "sync", "-q", "--require-hashes", LOCK)
        STAMP.write_text(wanted)


if __name__ == "__main__":
    main()
