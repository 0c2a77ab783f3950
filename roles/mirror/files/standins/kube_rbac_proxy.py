"""Stand-in for kube-rbac-proxy (quay.io/brancz/kube-rbac-proxy), which guards the metrics of KServe's controller.

Where the platform is built from packages, the real program's module cannot be had. As the real one does with the arguments
that KServe gives it, this one asks the API server who sends a request (TokenReview) and whether that user may use its
verb on its path (SubjectAccessReview), and passes on what is allowed. Left out: client certificates, configuration files,
HTTP/2, streaming; its certificate is self-signed, as the real one's is without --tls-cert-file.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import json
import os
import pathlib
import signal
import ssl
import threading
import urllib.parse

import self_signed

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
HOP_BY_HOP = {"connection", "keep-alive", "te", "trailers", "transfer-encoding", "upgrade", "content-length", "host", "authorization"}


def review(kind: str, api_group: str, spec: dict) -> dict:
    """Have the API server review something; answers the review's status."""
    tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    address = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    connection = http.client.HTTPSConnection(*address, timeout=10, context=tls)
    try:
        body = {"apiVersion": f"{api_group}/v1", "kind": kind, "spec": spec}
        headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}", "Content-Type": "application/json"}
        connection.request("POST", f"/apis/{api_group}/v1/{kind.lower()}s", json.dumps(body), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status >= 400:
            raise OSError(f"{kind}: {answer.get('message')}")
        return answer["status"]
    finally:
        connection.close()


def refusal(authorization: str, method: str, path: str) -> tuple[int, str]:
    """Status and reason with which a request is refused; 0 where it is allowed."""
    scheme, _space, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return 401, "Unauthorized"
    who = review("TokenReview", "authentication.k8s.io", {"token": token.strip()})
    if not who.get("authenticated"):
        return 401, "Unauthorized"
    user = who["user"]
    spec = {
        "user": user["username"],
        "uid": user.get("uid"),
        "groups": user.get("groups"),
        "extra": user.get("extra"),
        "nonResourceAttributes": {"path": urllib.parse.urlsplit(path).path, "verb": VERBS.get(method, method.lower())},
    }
    verdict = review("SubjectAccessReview", "authorization.k8s.io", {key: value for key, value in spec.items() if value})
    return (0, "") if verdict.get("allowed") else (403, f"Forbidden (user={user['username']}, verb={VERBS.get(method)}, path={path})")


def handler(upstream: urllib.parse.SplitResult):
    """A request handler class that guards upstream."""

    class Guard(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, reason = refusal(self.headers.get("Authorization", ""), self.command, self.path)
                if status:
                    return self.answer(status, (reason + "\n").encode(), {"Content-Type": "text/plain"})
                connection = http.client.HTTPConnection(upstream.hostname, upstream.port or 80, timeout=30)
                kept = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                connection.request(self.command, self.path, body or None, kept)
                response = connection.getresponse()
                content = response.read()
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                return self.answer(502, f"{error!r}\n".encode(), {"Content-Type": "text/plain"})
            return self.answer(
                response.status, content, {name: value for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP}
            )

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = forward

        def answer(self, status, content, headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Guard


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secure-listen-address", required=True)
    parser.add_argument("--upstream", required=True)
    arguments, _others = parser.parse_known_args()  # logging flags
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    host, _colon, port = arguments.secure_listen_address.rpartition(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), handler(urllib.parse.urlsplit(arguments.upstream)))
    server.socket = self_signed.context("kube-rbac-proxy").wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.sigwait(ends)


if __name__ == "__main__":
    main()
