"""A TLS context with a certificate made at the start; for the stand-ins whose clients do not verify it."""

from __future__ import annotations

import pathlib
import ssl
import subprocess
import tempfile


def context(name: str) -> ssl.SSLContext:
    """Make a key and a certificate for a name, in memory-backed files that are gone once they are loaded."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    memory = pathlib.Path("/dev/shm")  # the root file system may be read-only
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        key, certificate = f"{directory}/key", f"{directory}/certificate"
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "3650",
            "-subj",
            f"/CN={name}",
            "-addext",
            f"subjectAltName=DNS:{name}",
            "-keyout",
            key,
            "-out",
            certificate,
        ]
        subprocess.run(command, check=True, capture_output=True)
        tls.load_cert_chain(certificate, key)
    return tls
