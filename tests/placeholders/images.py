"""Images that answer for those that cannot be had, as the built manifests need them, and a registry for them.

What rolls out with placeholders shows that the manifests build, apply, are scheduled and roll out, no more.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.mlops.platform.plugins.module_utils import documents
from ansible_collections.mlops.platform.plugins.module_utils.mirror.oci import Entry, Layout

PROGRAM = Path(__file__).with_name("program.py")
BASE = "docker.io/mlops-platform/registry:1"  # Debian with Python, and what the registry runs from
CLIENTS = ("wget", "curl", "mysql", "mysqladmin", "pg_isready", "psql", "weed")


def reference(image: str) -> str:
    """The complete name of an image."""
    first, slash, _ = image.partition("/")
    if not slash:
        return f"docker.io/library/{image}"
    return image if "." in first or ":" in first or first == "localhost" else f"docker.io/{image}"


def containers(docs: Iterable[dict]) -> Iterable[tuple[dict, dict]]:
    """Workloads, with each of their containers."""
    for doc in docs:
        if doc["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            spec = doc["spec"]["template"]["spec"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                yield doc, container


def plan(docs: list[dict], replaced: dict[str, str], makes: dict[str, list[str]]) -> dict[str, dict]:
    """By image that has no replacement: the ports it listens on, the commands it is called by, what it tells the API server.

    Ports with TLS have a list of directories that may have their certificate, others null. `makes` names Secrets that programs make.
    """
    images: dict[str, dict] = {}
    for doc, container in containers(docs):
        name = container["image"]
        if name in replaced:
            continue
        entry = images.setdefault(name, {"ports": {}, "commands": set(), "trust": [], "secrets": makes.get(name, []), "workloads": []})
        entry["workloads"].append(doc["metadata"]["name"])
        entry["ports"].update({str(port): None for port in _ports(container)})
        if command := container.get("command"):
            entry["commands"].add(command[0])
    for doc, container, port, configuration, issued in _webhooks(docs):
        if container["image"] in images:
            entry = images[container["image"]]
            entry["ports"][str(port)] = _mounts(doc, container)
            if not issued:
                entry["trust"].append([configuration["kind"], configuration["metadata"]["name"]])
    for doc, container in containers(docs):
        for port in container.get("ports", []):
            if "webhook" in (port.get("name") or "") and container["image"] in images:
                images[container["image"]]["ports"][str(port["containerPort"])] = _mounts(doc, container)
    return images


def _ports(container: dict) -> set[int]:
    named = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    found = {port["containerPort"] for port in container.get("ports", [])}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        for how in ("httpGet", "tcpSocket", "grpc"):
            port = container.get(probe, {}).get(how, {}).get("port")
            if port is not None:
                found.add(named.get(port) or int(port))
    return found


def _mounts(doc: dict, container: dict) -> list[str]:
    """Directories where Secrets are mounted."""
    secrets = {volume["name"] for volume in doc["spec"]["template"]["spec"].get("volumes", []) if "secret" in volume}
    return sorted(mount["mountPath"] for mount in container.get("volumeMounts", []) if mount["name"] in secrets)


def _webhooks(docs: list[dict]) -> Iterable[tuple[dict, dict, int, dict, bool]]:
    """Workload, container and port that serve a webhook configuration, and whether cert-manager takes care of its certificate."""
    services = {(doc["metadata"].get("namespace"), doc["metadata"]["name"]): doc for doc in docs if doc["kind"] == "Service"}
    for configuration in docs:
        if configuration["kind"] not in documents.WEBHOOK_KINDS:
            continue
        issued = "cert-manager.io/inject-ca-from" in (configuration["metadata"].get("annotations") or {})
        wanted = {
            (webhook["clientConfig"]["service"]["namespace"], webhook["clientConfig"]["service"]["name"])
            for webhook in configuration["webhooks"]
        }
        for namespace, name in wanted:
            service = services[namespace, name]
            selector = service["spec"]["selector"].items()
            numbers = {webhook["clientConfig"]["service"].get("port", 443) for webhook in configuration["webhooks"]}
            targets = {port.get("targetPort", port["port"]) for port in service["spec"]["ports"] if port["port"] in numbers}
            for doc, container in containers(docs):
                named = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
                ours = [named.get(target, target) for target in targets if target in named or target in named.values()]
                if doc["metadata"]["namespace"] == namespace and selector <= doc["spec"]["template"]["metadata"]["labels"].items():
                    for port in ours:
                        yield doc, container, port, configuration, issued


def certificate(names: Iterable[str]) -> tuple[bytes, bytes]:
    """A certificate that vouches for itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "placeholder")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in sorted(names)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def build(images: dict[str, dict], services: Iterable[str], mirror: Path, target: Path) -> Layout:
    """Make the images in a layout of their own, on the base that the mirror has."""
    source, layout = Layout(mirror), Layout(target)
    base = source.json(source.names()[BASE]["digest"])["layers"][:-1]  # without the registry's program
    layout.blobs.mkdir(parents=True, exist_ok=True)
    for layer in base:
        if not layout.blob(layer["digest"]).exists():
            try:
                os.link(source.blob(layer["digest"]), layout.blob(layer["digest"]))
            except OSError:  # another file system
                shutil.copyfile(source.blob(layer["digest"]), layout.blob(layer["digest"]))
    crt, key = certificate(services)
    named = {}
    for image, entry in images.items():
        settings = json.dumps({key: entry[key] for key in ("ports", "trust", "secrets")}, sort_keys=True).encode()
        paths = {command if "/" in command else f"usr/local/bin/{command}" for command in entry["commands"]}
        # /bin and /sbin are links to those below /usr: a layer with such a directory would take their place
        paths = {re.sub(r"^(?=s?bin/)", "usr/", path.removeprefix("./").lstrip("/")) for path in paths}
        paths |= {f"usr/bin/{name}" for name in CLIENTS}
        entries = [
            Entry("placeholder/program.py", PROGRAM, 0o755),
            Entry("placeholder/plan.json", settings),
            Entry("placeholder/tls.crt", crt),
            Entry("placeholder/tls.key", key),
            *(Entry(path, PROGRAM, 0o755) for path in paths),
        ]
        config = {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "User": "65532",
            "WorkingDir": "/",
            "Entrypoint": ["/placeholder/program.py"],
        }
        named[reference(image)] = layout.add_image([*base, layout.add_layer(entries)], config)
    layout.name(named)
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    return layout


def docker(*arguments: str, given: str | None = None) -> str:
    """Run docker."""
    done = subprocess.run(["docker", *arguments], input=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def run_registry(name: str, layout: Layout, node: str) -> None:
    """Serve a layout to a node, after the mirror: what the mirror has is real."""
    volume = f"{layout.directory}:/layout:ro"
    image = BASE.removeprefix("docker.io/")
    subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=60)  # of an interrupted run
    docker("run", "--detach", "--rm", "--name", name, "--network", "kind", "--volume", volume, image, "--layout", "/layout")
    hosts = "/etc/containerd/certs.d/_default/hosts.toml"
    docker("exec", node, "grep", "-q", "mlops-platform-registry:5000", hosts)
    entry = f'\n[host."http://{name}:5000"]\n  capabilities = ["pull", "resolve"]\n'
    docker("exec", "--interactive", node, "sh", "-c", f"grep -q {name}: {hosts} || cat >> {hosts}", given=entry)
    check = f"import urllib.request; urllib.request.urlopen('http://{name}:5000/v2/', timeout=5)"
    deadline = time.monotonic() + 60
    while subprocess.run(["docker", "exec", name, "python3", "-c", check], capture_output=True).returncode:
        assert time.monotonic() < deadline, docker("logs", "--tail", "5", name)
        time.sleep(0.5)
