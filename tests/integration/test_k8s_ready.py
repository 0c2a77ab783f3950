"""Waiting against a real API server. There are no controllers, so the tests write the status that those would write."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils.diagnose import causes
from ansible_collections.mlops.platform.plugins.module_utils.ready import Target, Wait

COLLECTIONS = Path(__file__).resolve().parents[2] / "collections"
MERGE = "application/merge-patch+json"


@pytest.fixture
def namespace(cluster, request):
    """A namespace of the test's own."""
    name = request.node.name.replace("_", "-").split("[")[0][-60:].strip("-")
    create(cluster, "v1", "Namespace", name)
    return name


def create(cluster, api_version, kind, name, namespace=None, status=None, **body):
    """Create an object and write its status; returns it as the server has it."""
    metadata = {"name": name, "namespace": namespace, **body.pop("metadata", {})}
    resource = cluster.resource(api_version, kind)
    doc = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}
    created = cluster.request("POST", resource.path(namespace), body=doc)[1]
    return write_status(cluster, created, status) if status else created


def write_status(cluster, obj, status):
    path = cluster.resource(obj["apiVersion"], obj["kind"]).path(obj["metadata"].get("namespace"), obj["metadata"]["name"])
    return cluster.request("PATCH", f"{path}/status", body={"status": status}, content_type=MERGE)[1]


def template(**more):
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": "shop/web:1"}], **more}}


def deployment(cluster, namespace, name="web", status=None):
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template()}
    return create(cluster, "apps/v1", "Deployment", name, namespace, spec=spec, status=status)


def owned_by(owner, **metadata):
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    return {"ownerReferences": [reference | {"controller": True}], "labels": {"app": "web"}, **metadata}


READY = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}


def test_a_rollout_is_waited_for_until_its_status_says_so(cluster, namespace):
    objects = [deployment(cluster, namespace, f"web-{n}") for n in range(3)]
    writer = threading.Timer(1.5, lambda: [write_status(cluster, item, READY) for item in objects])
    writer.start()
    outcome = Wait(cluster, [Target("Deployment", f"web-{n}", namespace) for n in range(3)]).run(30)
    writer.join()
    assert outcome.done
    assert all(1.4 <= item.seconds <= 4 for item in outcome.awaited)
    path = cluster.resource("apps/v1", "Deployment").path(namespace, "web-0")
    cluster.request("PATCH", path, body={"spec": {"replicas": 2}}, content_type=MERGE)
    outcome = Wait(cluster, [Target("Deployment", "web-0", namespace)]).run(0)
    assert outcome.failed and "has not seen generation 2" in outcome.message


def broken(cluster, namespace, reason, message):
    """A Deployment whose pod waits with that reason."""
    web = deployment(cluster, namespace, status={"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1})
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template()}
    replicas = create(cluster, "apps/v1", "ReplicaSet", "web-1", namespace, metadata=owned_by(web), spec=spec)
    container = {
        "name": "app", "image": "shop/web:1", "imageID": "", "ready": False, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}},
    }  # fmt: skip
    status = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}], "containerStatuses": [container]}
    create(cluster, "v1", "Pod", "web-1-x", namespace, metadata=owned_by(replicas), spec=template()["spec"], status=status)
    return web


def test_an_image_that_does_not_exist_ends_the_wait_within_seconds(cluster, namespace):
    broken(cluster, namespace, "ImagePullBackOff", 'Back-off pulling image "shop/web:1": ErrImagePull: shop/web:1: not found')
    wait = Wait(cluster, [Target("Deployment", "web", namespace)])
    outcome = wait.run(60)
    assert outcome.failed and wait.elapsed < 8
    assert (
        f"Pod {namespace}/web-1-x container app: ImagePullBackOff: image shop/web:1 cannot be pulled: shop/web:1: not found"
        in outcome.message
    )


def test_a_config_map_that_comes_late_is_no_reason_to_give_up(cluster, namespace):
    web = broken(cluster, namespace, "CreateContainerConfigError", 'configmap "settings" not found')
    assert causes(cluster, web)[0].terminal
    create(cluster, "v1", "ConfigMap", "settings", namespace)
    assert not causes(cluster, web)[0].terminal


def definition():
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    return {"group": "ready.example.com", "scope": "Namespaced", "names": names, "versions": [version]}


def test_definitions_and_conditions_of_custom_resources(cluster, namespace):
    create(cluster, "apiextensions.k8s.io/v1", "CustomResourceDefinition", "things.ready.example.com", spec=definition())
    assert Wait(cluster, [Target("CustomResourceDefinition", "things.ready.example.com")]).run(20).done
    thing = Target("Thing", "one", namespace, "ready.example.com/v1", condition="Synced")
    live = None

    def create_when_served():
        nonlocal live
        while live is None:
            try:
                live = create(cluster, "ready.example.com/v1", "Thing", "one", namespace)
            except Exception:  # not served yet
                time.sleep(0.1)

    creation = threading.Thread(target=create_when_served)
    creation.start()
    outcome = Wait(cluster, [thing]).run(4)
    creation.join()
    assert outcome.failed and "has no condition Synced yet" in outcome.message
    write_status(cluster, live, {"conditions": [{"type": "Synced", "status": "False", "reason": "Denied", "message": "no"}]})
    assert "Synced is False (Denied)" in Wait(cluster, [thing]).run(0).message
    write_status(cluster, live, {"conditions": [{"type": "Synced", "status": "True"}]})
    assert Wait(cluster, [thing]).run(0).done


@contextlib.contextmanager
def tls_server(certificate, key):
    """A server that says 400 to whatever is asked, as webhooks do; yields address and port. Not on loopback: no endpoint may be there."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(400)

        def log_message(self, *args):
            pass

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing, only chooses the address this machine would use
        address = probe.getsockname()[0]
    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address, server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_a_webhook_is_ready_when_it_answers_the_api_server(cluster, namespace, api_server):
    certificates = Path(api_server).parent / "certificates"
    client = {"service": {"namespace": namespace, "name": "hook", "port": 443}}
    webhook = {"name": "hook.ready.example.com", "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"]}
    kind = "ValidatingWebhookConfiguration"
    create(cluster, "admissionregistration.k8s.io/v1", kind, "ready.example.com", webhooks=[webhook])
    target = Target(kind, "ready.example.com")

    def state():
        return Wait(cluster, [target]).run(0).message

    assert "has no caBundle yet" in state()
    path = cluster.resource("admissionregistration.k8s.io/v1", kind).path(None, "ready.example.com")
    authority = (certificates / "apiserver.crt").read_bytes()
    client["caBundle"] = base64.b64encode(authority).decode()
    cluster.request("PATCH", path, body={"webhooks": [webhook]}, content_type=MERGE)
    assert f"service {namespace}/hook, which does not exist" in state()
    with tls_server(certificates / "apiserver.crt", certificates / "apiserver.key") as (address, port):
        create(cluster, "v1", "Service", "hook", namespace, spec={"ports": [{"port": 443, "targetPort": port}]})
        assert f"service {namespace}/hook has no ready endpoints" in state()
        labels = {"kubernetes.io/service-name": "hook"}
        ip = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        pod = create(cluster, "v1", "Pod", "hook", namespace, spec=template()["spec"], status=ip)
        target_ref = {"kind": "Pod", "namespace": namespace, "name": "hook", "uid": pod["metadata"]["uid"]}
        endpoints = [{"addresses": [address], "conditions": {"ready": True}, "targetRef": target_ref}]
        ports = [{"name": "", "port": port, "protocol": "TCP"}]
        body = {"addressType": "IPv4", "endpoints": endpoints, "ports": ports}
        create(cluster, "discovery.k8s.io/v1", "EndpointSlice", "hook-x", namespace, metadata={"labels": labels}, **body)
        legacy = [{"addresses": [{"ip": address, "targetRef": target_ref}], "ports": [{"port": port}]}]
        create(cluster, "v1", "Endpoints", "hook", namespace, subsets=legacy)
        assert Wait(cluster, [target]).run(10).done
    assert "does not answer the API server on port 443" in state()


def play(tmp_path, tasks, *options):
    """Run tasks with ansible-playbook; returns the finished process."""
    book = tmp_path / "play.yml"
    book.write_text(yaml.safe_dump([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]))
    program = Path(sys.executable).with_name("ansible-playbook")
    environment = os.environ | {
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
    }
    return subprocess.run([program, book, *options], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)


def test_the_playbook_prints_what_is_awaited_and_fails_with_the_cause(cluster, namespace, api_server, tmp_path):
    broken(cluster, namespace, "ErrImagePull", "dial tcp: i/o timeout")
    deployment(cluster, namespace, "other", status=READY)
    objects = [{"kind": "Deployment", "name": name, "namespace": namespace} for name in ("other", "web")]
    task = {"mlops.platform.k8s_ready": {"kubeconfig": api_server, "objects": objects, "grace": 5, "slice": 2}}
    run = play(tmp_path, [task])
    assert run.returncode == 2, run.stdout + run.stderr
    waiting = [line for line in run.stdout.splitlines() if line.startswith("  waiting for")]
    trouble = "0 of 1 available (ErrImagePull: image shop/web:1 cannot be pulled: dial tcp: i/o timeout)"
    assert waiting == [f"  waiting for deployment/{namespace}/web: {trouble}"]
    assert "1 of 2 objects is not ready" in run.stdout + run.stderr and "i/o timeout" in run.stderr + run.stdout
    run = play(tmp_path, [task], "--check")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "changed=0" in run.stdout


def test_the_playbook_gets_the_live_objects(cluster, namespace, api_server, tmp_path):
    deployment(cluster, namespace, status=READY)
    tasks = [
        {
            "mlops.platform.k8s_ready": {
                "kubeconfig": api_server,
                "objects": [{"kind": "Deployment", "name": "web", "namespace": namespace}],
            },
            "register": "found",
        },
        {"copy": {"content": "{{ found | to_json }}", "dest": str(tmp_path / "found.json")}},
    ]
    run = play(tmp_path, tasks)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["changed"] is False and found["objects"][0]["ready"] is True
    assert found["resources"][0]["status"]["availableReplicas"] == 1 and found["resources"][0]["name"] == "web"
