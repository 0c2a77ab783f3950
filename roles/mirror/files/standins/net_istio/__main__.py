"""Start the stand-in in a pod."""

from __future__ import annotations

import os
import pathlib
import signal
import threading

from . import controller, kube


def cluster_domain(resolv_conf: str) -> str:
    """The cluster's DNS domain, from the search list that the kubelet writes into pods."""
    for line in resolv_conf.splitlines():
        if line.startswith("search"):
            for name in line.split()[1:]:
                if name.startswith("svc."):
                    return name.removeprefix("svc.").rstrip(".")
    return "cluster.local"


def main() -> None:
    """Run until SIGTERM."""
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # for every thread: only sigwait below takes them
    running = controller.Controller(
        kube.Api(), os.environ["SYSTEM_NAMESPACE"], cluster_domain(pathlib.Path("/etc/resolv.conf").read_text())
    )
    controller.serve_health(running)
    work = threading.Thread(target=running.run, daemon=True)
    work.start()
    signal.sigwait(ends)
    running.stop()
    work.join(timeout=10)
    controller.log("stopped")


if __name__ == "__main__":
    main()
