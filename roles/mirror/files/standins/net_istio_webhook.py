"""Stand-in for Knative's net-istio webhook (gcr.io/knative-releases/knative.dev/net-istio/cmd/webhook).

Where the platform is built from packages, the real webhook's module cannot be had. The released manifest registers its two
webhook configurations without rules; the real webhook adds the rules once it runs. Without rules they are never called, so
this stand-in answers the kubelet's probes and nothing else: config-istio is not validated when it is written. A config-istio
that makes no sense is reported by the stand-in for the controller, in the status of the KIngresses.
"""

from __future__ import annotations

import http.server
import os
import signal
import threading

import self_signed


class Health(http.server.BaseHTTPRequestHandler):
    """Answers every GET with 200."""

    def do_GET(self):  # noqa: D102
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments):
        """Say nothing of the kubelet's probes."""


def main() -> None:
    """Serve until SIGTERM."""
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    server = http.server.ThreadingHTTPServer(("", int(os.environ.get("WEBHOOK_PORT", "8443"))), Health)
    # the handshake is done by the thread of the connection, so that a silent client holds up nobody
    server.socket = self_signed.context("net-istio-webhook").wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.sigwait(ends)


if __name__ == "__main__":
    main()
