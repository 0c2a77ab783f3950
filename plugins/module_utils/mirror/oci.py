"""Writes OCI images without an image builder: deterministic, uncompressed layers in one shared OCI layout.

The same files give the same bytes, whoever builds them and whenever: entries are sorted, times are zero, owners are numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import stat
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator

from .engine import write_atomic

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
REFERENCE = "org.opencontainers.image.ref.name"


@dataclasses.dataclass
class Entry:
    """One entry of a layer: a file (path on disk or bytes), a directory, a symbolic or hard link."""

    name: str
    source: pathlib.Path | bytes | None = None
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    uid: int = 0
    gid: int = 0


def file_entries(source: pathlib.Path | bytes, dest: str, mode: int = 0o644) -> list[Entry]:
    """Return the entries of a file, or of a directory with everything below it, owned by root."""
    if isinstance(source, bytes) or not source.is_dir():
        return [Entry(dest.strip("/"), source, mode)]
    return [dataclasses.replace(entry, name=f"{dest.strip('/')}/{entry.name}", uid=0, gid=0) for entry in tree_entries(source)]


def tree_entries(root: pathlib.Path, skip: Iterable[str] = ()) -> list[Entry]:
    """Return the entries of everything below a directory, with owners and hard links; device files and sockets are left out."""
    skipped, seen, entries = set(skip), {}, []
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if os.path.relpath(os.path.join(directory, name), root) not in skipped]
        for name in names + files:
            path = pathlib.Path(directory, name)
            info, relative = path.lstat(), path.relative_to(root).as_posix()
            entry = Entry(relative, None, stat.S_IMODE(info.st_mode), uid=info.st_uid, gid=info.st_gid)
            if stat.S_ISLNK(info.st_mode):
                entry.kind, entry.link, entry.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
            elif stat.S_ISDIR(info.st_mode):
                entry.kind = tarfile.DIRTYPE
            elif stat.S_ISREG(info.st_mode):
                entry.source = path
                if info.st_nlink > 1:
                    seen.setdefault((info.st_dev, info.st_ino), []).append(entry)
            else:
                continue
            entries.append(entry)
    for linked in seen.values():
        first, *others = sorted(linked, key=lambda entry: entry.name)
        for entry in others:
            entry.kind, entry.link, entry.source = tarfile.LNKTYPE, first.name, None
    return entries


def write_tar(entries: Iterable[Entry], stream) -> None:
    """Write entries as a tar archive: sorted, with the directories they are in, without times and names of owners."""
    by_name: dict[str, Entry] = {}
    for entry in entries:
        by_name[entry.name] = entry  # the last one of a name wins
    for name in list(by_name):
        for parent in pathlib.PurePosixPath(name).parents:
            by_name.setdefault(str(parent), Entry(str(parent), None, 0o755, tarfile.DIRTYPE))
    by_name.pop(".", None)
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT, bufsize=1 << 20) as archive:
        for name in sorted(by_name, key=lambda name: name.split("/")):
            entry = by_name[name]
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.uid, info.gid = entry.kind, entry.mode, entry.link, entry.uid, entry.gid
            if isinstance(entry.source, bytes):
                info.size = len(entry.source)
                archive.addfile(info, io.BytesIO(entry.source))
            elif entry.source is not None:
                with open(entry.source, "rb") as file:
                    info.size = os.fstat(file.fileno()).st_size
                    archive.addfile(info, file)
            else:
                archive.addfile(info)


class _Hashing:
    def __init__(self, stream):
        self.stream, self.hash, self.size = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self.stream.write(data)


class Layout:
    """An OCI image layout: blobs by digest, and index.json with the names of the images."""

    def __init__(self, directory: pathlib.Path):
        self.directory = pathlib.Path(directory)
        self.blobs = self.directory / "blobs/sha256"
        self.lock = threading.Lock()

    def blob(self, digest: str) -> pathlib.Path:
        """Return the path of a blob."""
        return self.blobs / digest.removeprefix("sha256:")

    def json(self, digest: str) -> dict:
        """Return a JSON blob."""
        return json.loads(self.blob(digest).read_text())

    def add(self, data: bytes, media_type: str) -> dict:
        """Store bytes; return their descriptor."""
        name = hashlib.sha256(data).hexdigest()
        if not self.blob(name).exists():
            write_atomic(self.blob(name), data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    def add_json(self, value: dict, media_type: str) -> dict:
        """Store a JSON value; return its descriptor."""
        return self.add(json.dumps(value, sort_keys=True, separators=(",", ":")).encode(), media_type)

    def add_layer(self, entries: Iterable[Entry]) -> dict:
        """Store a layer; return its descriptor."""
        self.blobs.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.directory, prefix="layer.", delete=False) as file:
            try:
                hashing = _Hashing(file)
                write_tar(entries, hashing)
                file.flush()
                os.chmod(file.name, 0o644)
                os.replace(file.name, self.blob(hashing.hash.hexdigest()))
            except BaseException:
                os.unlink(file.name)
                raise
        return {"mediaType": LAYER, "digest": f"sha256:{hashing.hash.hexdigest()}", "size": hashing.size}

    def add_image(self, layers: list[dict], config: dict, labels: dict[str, str] | None = None) -> dict:
        """Store an image made of stored layers; return the descriptor of its manifest."""
        document = {
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {**config, **({"Labels": labels} if labels else {})},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},  # uncompressed: the digest of the tar itself
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "mlops.platform mirror"} for _ in layers],
        }
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": self.add_json(document, CONFIG), "layers": layers}
        return self.add_json(manifest, MANIFEST)

    def names(self) -> dict[str, dict]:
        """Return the named images: complete reference → descriptor of the manifest."""
        try:
            manifests = json.loads((self.directory / "index.json").read_text())["manifests"]
        except FileNotFoundError:
            return {}
        return {item["annotations"][REFERENCE]: {key: item[key] for key in ("mediaType", "digest", "size")} for item in manifests}

    def name(self, images: dict[str, dict]) -> None:
        """Give images their names, beside those that have names already."""
        with self.lock:
            images = {**self.names(), **images}
            index = {
                "schemaVersion": 2,
                "mediaType": INDEX,
                "manifests": [{**item, "annotations": {REFERENCE: name}} for name, item in sorted(images.items())],
            }
            write_atomic(self.directory / "oci-layout", '{"imageLayoutVersion":"1.0.0"}')
            write_atomic(self.directory / "index.json", json.dumps(index, indent=1))

    def referenced(self, manifests: Iterable[str]) -> set[str]:
        """Return the digests of these manifests and of everything they are made of."""
        digests = set()
        for digest in manifests:
            manifest = self.json(digest)
            digests |= {digest, manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}
        return digests

    def prune(self, keep: Iterable[str] = ()) -> int:
        """Remove the blobs that no named image needs, except `keep`; return how many."""
        needed = {digest.removeprefix("sha256:") for digest in [*self.referenced(item["digest"] for item in self.names().values()), *keep]}
        unneeded = [path for path in self.blobs.iterdir() if path.name not in needed]
        for path in unneeded:
            path.unlink()
        return len(unneeded)

    def archive(self, images: dict[str, dict], *, docker: bool = False) -> Iterator[bytes]:
        """Yield a tar archive of images: an OCI layout for `ctr images import`, or what `docker load` reads."""
        members: dict[str, bytes | pathlib.Path] = {}
        for digest in self.referenced(item["digest"] for item in images.values()):
            members[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = self.blob(digest)
        if docker:
            listing = []
            for name, item in sorted(images.items()):
                manifest = self.json(item["digest"])
                path = [f"blobs/sha256/{part['digest'].removeprefix('sha256:')}" for part in (manifest["config"], *manifest["layers"])]
                listing.append({"Config": path[0], "RepoTags": [name], "Layers": path[1:]})
            members["manifest.json"] = json.dumps(listing).encode()
        else:
            index = [{**item, "annotations": {"io.containerd.image.name": name}} for name, item in sorted(images.items())]
            members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": index}).encode()
            members["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
        for name, source in sorted(members.items(), key=lambda member: (not member[0].endswith(("json", "layout")), member[0])):
            info = tarfile.TarInfo(name)
            info.size = len(source) if isinstance(source, bytes) else source.stat().st_size
            yield info.tobuf(tarfile.GNU_FORMAT)
            if isinstance(source, bytes):
                yield source
            else:
                with source.open("rb") as file:
                    while chunk := file.read(1 << 20):
                        yield chunk
            yield b"\0" * (-info.size % tarfile.BLOCKSIZE)
        yield b"\0" * tarfile.RECORDSIZE
