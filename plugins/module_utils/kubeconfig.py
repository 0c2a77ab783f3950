# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The kubeconfigs that need no help: one file, whose user has certificates or a token.

Importing the `kubernetes` package takes half a second, in every task anew. It is what reads kubeconfigs, merges files, runs credential
plugins, goes through proxies and explains what is wrong; what has none of that, as kind's and kubeadm's, is read here.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from dataclasses import dataclass

import yaml

# All that a cluster and a user may have here; anything else, known or not, is the package's.
CLUSTER = {"server", "certificate-authority", "certificate-authority-data"}
USER = {"client-certificate", "client-certificate-data", "client-key", "client-key-data", "token"}


@dataclass(frozen=True)
class Plain:
    """Where the API server is, and how to talk to it. `tls` is None for a server without TLS, `token` is empty without one."""

    context: str
    server: str
    tls: ssl.SSLContext | None
    token: str


def read(path: str, context: str | None) -> Plain | None:
    """Read `context` (default: the current one) of the kubeconfig `path`; None if it is not plain, or anything is wrong with it."""
    try:
        with open(path, encoding="utf-8") as stream:
            config = yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        name = context or config["current-context"]
        chosen = _named(config["contexts"], name)["context"]
        cluster = _named(config["clusters"], chosen["cluster"])["cluster"]
        user = _named(config["users"], chosen["user"])["user"] or {}
        if not set(cluster) <= CLUSTER or not set(user) <= USER:
            return None
        server = cluster["server"].rstrip("/")
        tls = _tls(cluster, user, os.path.dirname(path)) if server.startswith("https://") else None
        return Plain(name, server, tls, user.get("token") or "")
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError, binascii.Error):
        return None


def _named(entries: list[dict], name: str) -> dict:
    return next((entry for entry in entries if entry["name"] == name), {})


def _tls(cluster: dict, user: dict, directory: str) -> ssl.SSLContext:
    authority = _content(cluster, "certificate-authority", directory)
    # as the package does it: with the system's authorities only where the kubeconfig names none
    tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
    # kubeadm's authorities of earlier versions lack what Python 3.13 asks for by default; kubectl does not ask for it
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    certificate, key = (_content(user, f"client-{part}", directory) for part in ("certificate", "key"))
    if certificate or key:
        with tempfile.NamedTemporaryFile() as both:  # mode 0600; OpenSSL reads no chain but from files
            both.write(certificate + b"\n" + key)
            both.flush()
            tls.load_cert_chain(both.name)
    return tls


def _content(entry: dict, name: str, directory: str) -> bytes:
    """What a kubeconfig has as data, or in a file beside it."""
    if data := entry.get(f"{name}-data"):
        return base64.b64decode(data)
    if not (path := entry.get(name)):
        return b""
    with open(os.path.join(directory, path), "rb") as stream:
        return stream.read()
