# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Command line of the rehearsal: python -m rehearsal serve|start|stop|status|token."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
SETTINGS = ("port", "operation_seconds", "token_seconds", "kubeconfig", "context", "config_connector")
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rehearsal", description="A rehearsal of Google Cloud on loopback.")
    parser.add_argument("command", choices=("serve", "start", "stop", "status", "token"))
    parser.add_argument("--state-dir", type=lambda text: Path(text).expanduser().resolve(), required=True, help="where its state is kept")
    parser.add_argument("--port", type=int, default=31390)
    parser.add_argument("--operation-seconds", type=float, default=0.5, help="how long operations take (default: %(default)s)")
    parser.add_argument("--token-seconds", type=int, default=3600, help="how long tokens are good for (default: %(default)s)")
    parser.add_argument("--kubeconfig", default="", help="a cluster that stands in for those of GKE")
    parser.add_argument("--context", default="", help="context in the kubeconfig")
    parser.add_argument("--config-connector", action="store_true", help="reconcile Config Connector's resources in that cluster")
    # From the environment rather than the command line, which other users can see.
    parser.add_argument("--access-token", default=os.environ.get("REHEARSAL_ACCESS_TOKEN", ""),
                        help="one more token that is good, without end (default: REHEARSAL_ACCESS_TOKEN in the environment)")  # fmt: skip
    return parser.parse_args()


def _serve(options: argparse.Namespace) -> None:
    from rehearsal.server import Rehearsal

    os.umask(0o077)
    server = Rehearsal(
        options.state_dir, options.port, operation_seconds=options.operation_seconds, token_seconds=options.token_seconds,
        access_token=options.access_token, kubeconfig=options.kubeconfig, context=options.context,
    )  # fmt: skip
    server.advertise()
    controller = None
    if options.config_connector:
        from rehearsal import config_connector

        controller = config_connector.start(server)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.stop).start())
    print(f"serving on {server.endpoint}", flush=True)
    server.serve()
    if controller:
        controller.stop()


def _running(directory: Path) -> dict | None:
    """What the daemon of a state directory was started with, if it still runs."""
    try:
        daemon = json.loads((directory / "daemon.json").read_text())
        with DIRECT.open(f"http://127.0.0.1:{daemon['port']}/rehearsal/status", timeout=10) as answer:
            status = json.load(answer)
    except (OSError, ValueError, KeyError):
        return None
    return {**daemon, **status} if status.get("pid") == daemon["pid"] else None


def _settings(options: argparse.Namespace) -> dict:
    """What a daemon that need not be started anew has in common with one that would be: options and program."""
    program = hashlib.sha256()
    for path in sorted([*HERE.rglob("*.py"), HERE.parent / "plugins/module_utils/gcp/descriptions.py"]):
        program.update(path.read_bytes())
    return {name: getattr(options, name) for name in SETTINGS} | {"program": program.hexdigest()}


def _start(options: argparse.Namespace) -> bool:
    from rehearsal.state import write

    wanted, running = _settings(options), _running(options.state_dir)
    if running and all(running.get(name) == value for name, value in wanted.items()):
        return False
    if running:
        _stop(options.state_dir)
    command = [sys.executable, "-m", "rehearsal", "serve", "--state-dir", str(options.state_dir)]
    for name in SETTINGS:
        value = getattr(options, name)
        if value is True:
            command.append(f"--{name.replace('_', '-')}")
        elif value not in ("", False):
            command += [f"--{name.replace('_', '-')}", str(value)]
    log_path = options.state_dir / "rehearsal.log"
    with os.fdopen(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=HERE.parent,
            env={**os.environ, "REHEARSAL_ACCESS_TOKEN": options.access_token},
        )  # fmt: skip
    write(options.state_dir / "daemon.json", json.dumps({"pid": process.pid, **wanted}))
    deadline = time.monotonic() + 60
    while not _running(options.state_dir):
        if process.poll() is not None or time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            why = log_path.read_bytes()[start:].decode(errors="replace")[-2000:]
            sys.exit(f"The rehearsal does not start on port {options.port}:\n{why}")
        time.sleep(0.05)
    return True


def _stop(directory: Path) -> bool:
    running = _running(directory)
    if not running:
        return False
    os.kill(running["pid"], signal.SIGTERM)
    deadline = time.monotonic() + 30
    while _running(directory):
        if time.monotonic() > deadline:
            sys.exit(f"The rehearsal (process {running['pid']}) does not end within 30 s; end it with kill -9 {running['pid']}.")
        time.sleep(0.05)
    (directory / "daemon.json").unlink()
    return True


def _token(directory: Path) -> str:
    import requests
    from google.auth.transport.requests import Request
    from google.oauth2.service_account import Credentials

    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    credentials = Credentials.from_service_account_file(directory / "credentials.json", scopes=scopes)
    with requests.Session() as session:
        session.trust_env = False  # no proxy on the way to loopback
        credentials.refresh(Request(session))
    return credentials.token


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Two that start or stop the same rehearsal do so one after the other."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(directory / ".lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Runs one command; start, stop and status print one JSON object. status ends with 3 if nothing runs."""
    options = _arguments()
    if options.command == "serve":
        _serve(options)
    elif options.command == "token":
        print(_token(options.state_dir))
    elif options.command == "status":
        running = _running(options.state_dir)
        print(json.dumps({"running": bool(running), **(running or {})}, indent=2))
        sys.exit(0 if running else 3)
    else:
        with _alone(options.state_dir):
            changed = _start(options) if options.command == "start" else _stop(options.state_dir)
            print(json.dumps({"changed": changed, **(_running(options.state_dir) or {})}, indent=2))


main()
