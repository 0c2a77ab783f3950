"""The stand-ins for images that cannot be had: what is planned for which image, and how their program answers."""

from __future__ import annotations

import http.client
import json
import socket
import ssl

from tests.placeholders import images, program

WORKLOAD = {
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "n"},
    "spec": {
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "volumes": [{"name": "cert", "secret": {"secretName": "issued"}}],
                "containers": [
                    {
                        "name": "web",
                        "image": "example.com/web:1",
                        "command": ["/bin/web"],
                        "ports": [{"containerPort": 9443, "name": "admission"}],
                        "readinessProbe": {"grpc": {"port": 7000}},
                        "volumeMounts": [{"name": "cert", "mountPath": "/certs"}],
                    },
                    {"name": "proxy", "image": "example.com/proxy:1"},
                ],
            },
        }
    },
}
SERVICE = {
    "kind": "Service",
    "metadata": {"name": "hook", "namespace": "n"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 443, "targetPort": "admission"}]},
}
CONFIGURATION = {
    "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": "v"},
    "webhooks": [{"clientConfig": {"service": {"namespace": "n", "name": "hook"}}}],
}


def test_a_plan():
    planned = images.plan([WORKLOAD, SERVICE, CONFIGURATION], {"example.com/proxy:1": "real"}, {"example.com/web:1": ["made"]})
    assert planned == {
        "example.com/web:1": {
            "ports": {"7000": None, "9443": ["/certs"]},
            "commands": {"/bin/web"},
            "trust": [["ValidatingWebhookConfiguration", "v"]],
            "secrets": ["made"],
            "workloads": ["web"],
        }
    }


def test_nobody_is_told_whom_to_trust_where_cert_manager_does():
    issued = {**CONFIGURATION, "metadata": {"name": "v", "annotations": {"cert-manager.io/inject-ca-from": "n/c"}}}
    assert images.plan([WORKLOAD, SERVICE, issued], {}, {})["example.com/web:1"]["trust"] == []


def test_complete_names():
    assert images.reference("mysql:8.0") == "docker.io/library/mysql:8.0"
    assert images.reference("kserve/models-web-app:1") == "docker.io/kserve/models-web-app:1"
    assert images.reference("localhost:5000/x:1") == "localhost:5000/x:1"


def test_it_answers_http_and_grpc_on_one_port(free_port):
    program.serve(free_port, None)
    connection = http.client.HTTPConnection("127.0.0.1", free_port, timeout=5)
    connection.request("GET", "/healthz")
    assert connection.getresponse().read() == b'{"placeholder": true}'
    with socket.create_connection(("127.0.0.1", free_port), timeout=5) as call:
        call.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + program.frame(program.SETTINGS, 0, 0) + program.frame(program.HEADERS, 5, 1))
        received = b""
        while b"grpc-status" not in received:
            received += call.recv(4096)
    assert b"application/grpc" in received and b"\0\0\0\0\2\x08\1" in received


def test_it_answers_the_api_server_over_tls(free_port, tmp_path):
    crt, key = images.certificate(["hook.n.svc"])
    (tmp_path / "tls.crt").write_bytes(crt)
    (tmp_path / "tls.key").write_bytes(key)
    program.serve(free_port, ["/nonexistent", str(tmp_path)])
    trust = ssl.create_default_context(cadata=crt.decode())
    with (
        socket.create_connection(("127.0.0.1", free_port), timeout=5) as plain,
        trust.wrap_socket(plain, server_hostname="hook.n.svc") as call,
    ):
        body = json.dumps({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"uid": "u"}}).replace(": ", ":")
        call.sendall(f"POST /validate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        received = b""
        while chunk := call.recv(4096):
            received += chunk
    assert json.loads(received.partition(b"\r\n\r\n")[2])["response"] == {"uid": "u", "allowed": True}
