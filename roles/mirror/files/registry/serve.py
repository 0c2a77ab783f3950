"""A read-only image registry: serves an OCI image layout over HTTP.

Names are matched without the registry they begin with, so that one mirror answers for every registry: `kserve/agent:v0.8.0` is
`docker.io/kserve/agent:v0.8.0`. index.json is read again when it has changed: new images appear without a restart.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import pathlib
import re
import shutil
import threading

PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def without_registry(reference: str) -> str:
    """Return an image's name without the registry that it begins with."""
    first, _, rest = reference.partition("/")
    return rest if rest and ("." in first or ":" in first or first == "localhost") else reference


class Images:
    """The named images of a layout."""

    def __init__(self, layout: str):
        self.layout = pathlib.Path(layout)
        self.lock, self.stamp, self.by_name = threading.Lock(), None, {}

    def find(self, name: str) -> dict | None:
        """Return the descriptor of a named image (`repository:tag`)."""
        index = self.layout / "index.json"
        with self.lock:
            try:
                status = index.stat()
                stamp = (status.st_mtime_ns, status.st_ino)
                if stamp != self.stamp:
                    manifests = json.loads(index.read_text())["manifests"]
                    self.by_name = {without_registry(item["annotations"]["org.opencontainers.image.ref.name"]): item for item in manifests}
                    self.stamp = stamp
            except FileNotFoundError:
                self.stamp, self.by_name = None, {}
            return self.by_name.get(name)

    def blob(self, digest: str) -> pathlib.Path | None:
        """Return the file of a blob."""
        path = self.layout / "blobs" / digest.replace(":", "/")
        return path if DIGEST.fullmatch(digest) and path.is_file() else None


class Handler(http.server.BaseHTTPRequestHandler):
    """GET and HEAD of the distribution API."""

    protocol_version = "HTTP/1.1"
    images: Images

    def do_GET(self) -> None:
        """Answer with the content."""
        path = self.path.split("?")[0]  # containerd adds ?ns=<registry>
        if path in ("/v2", "/v2/"):
            return self.answer(200, b"{}")
        match = PATH.fullmatch(path)
        if not match:
            return self.refuse("UNSUPPORTED", f"{path} is not served here")
        name, kind, reference = match.group("name", "kind", "reference")
        if kind == "manifests" and not DIGEST.fullmatch(reference):
            found = self.images.find(f"{name}:{reference}")
            if not found:
                return self.refuse("MANIFEST_UNKNOWN", f"the mirror has no image {name}:{reference}")
            reference = found["digest"]
        file = self.images.blob(reference)
        if not file:
            return self.refuse("MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN", f"the mirror has no {reference} of {name}")
        if kind == "manifests":
            data = file.read_bytes()
            return self.answer(200, data, json.loads(data).get("mediaType", "application/octet-stream"), reference)
        with file.open("rb") as stream:
            self.headers_of(200, os.fstat(stream.fileno()).st_size, "application/octet-stream", reference)
            if self.command == "GET":
                shutil.copyfileobj(stream, self.wfile, 1 << 20)

    do_HEAD = do_GET

    def headers_of(self, status: int, size: int, media_type: str, digest: str | None) -> None:
        """Send the status line and the headers."""
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(size))
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()

    def answer(self, status: int, data: bytes, media_type: str = "application/json", digest: str | None = None) -> None:
        """Send a small answer."""
        self.headers_of(status, len(data), media_type, digest)
        if self.command == "GET":
            self.wfile.write(data)

    def refuse(self, code: str, message: str) -> None:
        """Say at once that something is not here."""
        self.answer(404, json.dumps({"errors": [{"code": code, "message": message}]}).encode())


def server(layout: str, address: str, port: int) -> http.server.ThreadingHTTPServer:
    """Return a server for a layout; port 0 takes a free one."""
    handler = type("LayoutHandler", (Handler,), {"images": Images(layout)})
    return http.server.ThreadingHTTPServer((address, port), handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layout", default="/layout")
    parser.add_argument("--port", type=int, default=5000)
    arguments = parser.parse_args()
    server(arguments.layout, "", arguments.port).serve_forever()
