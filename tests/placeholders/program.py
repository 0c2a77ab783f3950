#!/usr/bin/python3 -B
"""Stands in for a program whose image cannot be had: answers what Kubernetes asks of it, and does nothing of what the program is for.

Plain ports answer any HTTP request with 200 and any gRPC call with "serving"; ports with TLS answer, besides, what the API server asks of
webhooks: allowed, unchanged. The certificate is the one that is mounted; where the real program makes its own, it has one of the test, and
tells the API server whom to trust, as the real program does. Under the names of the clients that probes call it is such a client.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import pathlib
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.error
import urllib.request

HOME = pathlib.Path("/placeholder")
ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
GET, TCP, STORE = ("wget", "curl"), ("mysql", "mysqladmin", "pg_isready", "psql"), ("weed",)
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame of HTTP/2."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def field(name: bytes, value: bytes) -> bytes:
    """Return a header field, written out."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Handler(http.server.BaseHTTPRequestHandler):
    """Says yes to everything."""

    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        """Tell gRPC from HTTP by the first bytes."""
        try:
            peek = getattr(self.connection, "_sock", self.connection)
            if not isinstance(self.connection, ssl.SSLSocket) and peek.recv(3, socket.MSG_PEEK) == b"PRI":
                self.serve_grpc()
            else:
                super().handle()
        except OSError:  # a probe that only connects, or went away
            self.close_connection = True

    def serve_grpc(self) -> None:
        """Answer every call with grpc.health.v1.HealthCheckResponse{status: SERVING}."""
        self.rfile.read(24)
        self.wfile.write(frame(SETTINGS, 0, 0))
        while head := self.rfile.read(9):
            length = int.from_bytes(head[:3], "big")
            kind, flags, stream = struct.unpack("!BBI", head[3:])
            payload = self.rfile.read(length)
            if kind in (SETTINGS, PING) and not flags & 1:
                self.wfile.write(frame(kind, 1, 0, payload if kind == PING else b""))
            elif kind in (HEADERS, DATA) and flags & 1:
                self.wfile.write(
                    frame(HEADERS, 4, stream, b"\x88" + field(b"content-type", b"application/grpc"))
                    + frame(DATA, 0, stream, b"\0\0\0\0\2\x08\1")
                    + frame(HEADERS, 5, stream, field(b"grpc-status", b"0"))
                )
            elif kind == GOAWAY:
                return

    def do_GET(self) -> None:
        """Answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = {"placeholder": True}
        if b'"AdmissionReview"' in body:
            review = json.loads(body)
            answer = {
                "apiVersion": review["apiVersion"],
                "kind": "AdmissionReview",
                "response": {"uid": review["request"]["uid"], "allowed": True},
            }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *arguments) -> None:
        """Write nothing."""


def certificate(directories: list[str]) -> tuple[str, str]:
    """Return certificate and key: mounted ones, else those of the test."""
    for directory in [*directories, str(HOME)]:
        for names in (("tls.crt", "tls.key"), ("cert.pem", "key.pem")):
            found = [os.path.join(directory, name) for name in names]
            if all(map(os.path.isfile, found)):
                return found[0], found[1]
    raise SystemExit(f"no certificate in {directories}")


def serve(port: int, directories: list[str] | None) -> None:
    """Listen on a port, with TLS if there are directories for its certificate."""
    server = http.server.ThreadingHTTPServer(("", port), Handler)
    if directories is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate(directories))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def call(method: str, path: str, body: dict | None = None) -> dict:
    """Ask the API server, as the pod's account."""
    url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}{path}"
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, method=method)
    request.add_header("Authorization", f"Bearer {(ACCOUNT / 'token').read_text()}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10, context=ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))) as answer:
        return json.load(answer)


def trust(kind: str, name: str) -> None:
    """Write the test's authority into a webhook configuration."""
    path = f"/apis/admissionregistration.k8s.io/v1/{kind.lower()}s/{name}"
    live = call("GET", path)
    authority = base64.b64encode((HOME / "tls.crt").read_bytes()).decode()
    if any(webhook["clientConfig"].get("caBundle") != authority for webhook in live["webhooks"]):
        for webhook in live["webhooks"]:
            webhook["clientConfig"]["caBundle"] = authority
        call("PUT", f"{path}?fieldManager=manager", live)


def make(secret: str) -> None:
    """Make a Secret with a certificate in the pod's namespace."""
    path = f"/api/v1/namespaces/{(ACCOUNT / 'namespace').read_text()}/secrets"
    data = {key: base64.b64encode((HOME / file).read_bytes()).decode() for key, file in (("cert.pem", "tls.crt"), ("key.pem", "tls.key"))}
    try:
        call("POST", path, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}, "data": data})
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise


def until_done(work, *arguments) -> None:
    """Try again and again: rights, objects and the way to the API server may be late."""
    while True:
        try:
            return work(*arguments)
        except (OSError, ValueError, KeyError) as error:
            print(f"{work.__name__} {arguments}: {error}", flush=True)
            time.sleep(2)


def client(name: str, arguments: list[str]) -> int:
    """Be one of the clients that probes and hooks call."""
    if name in GET:
        url = next(word for word in arguments if word.startswith("http"))
        with urllib.request.urlopen(url, timeout=5) as answer:
            return 0 if answer.status == 200 else 1
    if name in STORE:
        print("mlpipeline")  # its bucket
        return 0
    with socket.create_connection(("127.0.0.1", 5432 if name.startswith("p") else 3306), timeout=5):
        return 0


def main() -> int:
    """Run."""
    name = os.path.basename(sys.argv[0])
    if name in (*GET, *STORE, *TCP) and not (name in STORE and "server" in sys.argv[1:]):
        return client(name, sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the first process of a container is not ended otherwise
    plan = json.loads((HOME / "plan.json").read_text())
    for port, directories in plan["ports"].items():
        try:
            serve(int(port), directories)
        except OSError as error:  # another container of the pod has it
            print(f"port {port}: {error}", flush=True)
    for secret in plan["secrets"]:
        until_done(make, secret)
    for kind, webhooks in plan["trust"]:
        until_done(trust, kind, webhooks)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
