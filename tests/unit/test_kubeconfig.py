"""Kubeconfigs that are read without the kubernetes package, and those that are left to it."""

from __future__ import annotations

import base64
import datetime
import os
import ssl
import subprocess
import sys

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.mlops.platform.plugins.module_utils import kubeconfig


@pytest.fixture(scope="module")
def pair():
    """A certificate and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM), secret


@pytest.fixture
def write(tmp_path):
    """Write a kubeconfig of one cluster and one user; returns its path."""

    def write(cluster=None, user=None, **more):
        config = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443/", **(cluster or {})}}],
            "users": [{"name": "u", "user": user}],
        }
        (tmp_path / "config").write_text(yaml.safe_dump({**config, **more}))
        return str(tmp_path / "config")

    return write


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_certificates_as_data(write, pair):
    plain = kubeconfig.read(
        write(
            {"certificate-authority-data": encoded(pair[0])},
            {"client-certificate-data": encoded(pair[0]), "client-key-data": encoded(pair[1])},
        ),
        None,
    )
    assert (plain.context, plain.server, plain.token) == ("here", "https://10.0.0.1:6443", "")
    assert plain.tls.verify_mode == ssl.CERT_REQUIRED and plain.tls.check_hostname
    # no other authority counts than the one that the kubeconfig names
    assert [dict(part[0] for part in entry["subject"])["commonName"] for entry in plain.tls.get_ca_certs()] == ["admin"]


def test_certificates_in_files_beside_it(write, pair, tmp_path):
    (tmp_path / "ca.crt").write_bytes(pair[0])
    (tmp_path / "client.key").write_bytes(pair[1])
    path = write({"certificate-authority": "ca.crt"}, {"client-certificate": str(tmp_path / "ca.crt"), "client-key": "client.key"})
    assert len(kubeconfig.read(path, "here").tls.get_ca_certs()) == 1


def test_token_and_server_without_tls(write):
    plain = kubeconfig.read(write({"server": "http://127.0.0.1:8001"}, {"token": "t"}), None)
    assert (plain.server, plain.tls, plain.token) == ("http://127.0.0.1:8001", None, "t")


@pytest.mark.parametrize(
    ("cluster", "user", "more"),
    [
        ({}, {"exec": {"command": "gke-auth"}}, {}),
        ({}, {"auth-provider": {"name": "oidc"}}, {}),
        ({}, {"tokenFile": "/run/token"}, {}),
        ({}, {"username": "u", "password": "p"}, {}),
        ({}, {"token": "t", "as": "somebody"}, {}),
        ({"proxy-url": "http://proxy"}, {"token": "t"}, {}),
        ({"insecure-skip-tls-verify": True}, {"token": "t"}, {}),
        ({"tls-server-name": "kubernetes"}, {"token": "t"}, {}),
        ({"certificate-authority": "/none/ca.crt"}, {"token": "t"}, {}),
        ({"certificate-authority-data": "no base64"}, {"token": "t"}, {}),
        ({}, {"client-certificate-data": encoded(b"no certificate")}, {}),
        ({}, {"token": "t"}, {"current-context": ""}),
        ({}, {"token": "t"}, {"users": []}),
        ({}, {"token": "t"}, {"contexts": None}),
    ],
)
def test_the_rest_is_left_to_the_package(write, cluster, user, more):
    assert kubeconfig.read(write(cluster, user, **more), None) is None


def test_what_is_no_kubeconfig_is_left_to_the_package(tmp_path):
    (tmp_path / "damaged").write_text("apiVersion: [")
    (tmp_path / "text").write_text("text")
    for name in ("damaged", "text", "none", "damaged:text"):
        assert kubeconfig.read(str(tmp_path / name), None) is None


def test_the_package_is_not_imported_for_a_plain_one(write):
    path = write({"server": "https://127.0.0.1:1"}, {"token": "t"})
    code = (
        "import sys; from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster;"
        f"Cluster({path!r}); sys.exit('kubernetes' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60, env=environment).returncode == 0
