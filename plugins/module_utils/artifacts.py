# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files of a release set: fetched once, checked against their sums, kept under their sums. Standard library only."""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

SOURCES = ("upstream", "packages")
PARALLEL = 8
RETRIES = 2  # of failures that pass by themselves: a connection that is dropped, a server that is busy


class ArtifactError(Exception):
    """An artifact that cannot be had, with cause and remedy."""


def resolve_source(source: str, cache_dir: str) -> str:
    """`upstream` or `packages`; `auto` is what the cache says (`make up` decides and writes it there)."""
    if source != "auto":
        return source
    path = os.path.join(cache_dir, "source")
    try:
        with open(path, encoding="utf-8") as stream:
            decided = stream.read().strip()
    except FileNotFoundError:
        return "upstream"
    if decided not in SOURCES:
        raise ArtifactError(f"{path} contains {decided!r}; known are {', '.join(SOURCES)}. Run `make up` again, or set platform_source.")
    return decided


def tree_sum(files: dict[str, str]) -> str:
    """The sum that a tree is kept under: of its sorted `sha256  path` lines."""
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


class Store:
    """The artifacts of one component, from one source, in one cache."""

    def __init__(self, cache_dir: str, component: str, version: str, source: str = "auto", timeout: float = 20) -> None:
        self.cache_dir = os.path.abspath(os.path.expanduser(cache_dir))
        self.root = os.path.join(self.cache_dir, "artifacts")
        self.component, self.version, self.timeout = component, version, timeout
        self.source = resolve_source(source, self.cache_dir)
        self.packages = os.path.join(self.cache_dir, "packages", f"{component}-{version}")
        self.opener = urllib.request.build_opener()  # with the proxies of the environment
        self.warnings: list[str] = []
        self.fetched: list[str] = []

    def provide(self, artifacts: dict[str, dict]) -> dict[str, str]:
        """Paths of verified files and trees, by name; what the cache lacks is fetched."""
        wanted = {name: self._wanted(name, artifact) for name, artifact in artifacts.items()}
        paths = {name: self._cached(item) for name, item in wanted.items()}
        missing = [item for name, item in wanted.items() if paths[name] is None]
        if missing:
            with self._lock():
                # Another run may have fetched them while this one waited for the lock.
                missing = [item for item in missing if self._cached(item, repair=True) is None]
                self._fetch(missing)
            paths.update({item["name"]: self._cached(item) for item in wanted.values()})
            self.fetched = [item["name"] for item in missing]
        for item in wanted.values():
            self._warn_unverified(item, paths[item["name"]])
        return paths

    def _wanted(self, name: str, artifact: dict) -> dict:
        """What is expected of an artifact from this source: origin and sum of every file."""
        tree = artifact.get("files")
        if self.source == "packages":
            origin = os.path.join(self.packages, name if tree else f"{name}.yaml")
            expected = artifact.get("packages_sha256") or artifact.get("sha256")
        else:
            origin, expected = artifact["url"], artifact.get("sha256")
        if not tree:
            basename = os.path.basename(urllib.parse.urlsplit(artifact["url"]).path)
            return {"name": name, "tree": False, "origin": origin, "base": basename, "files": {basename: expected}}
        return {"name": name, "tree": True, "origin": origin, "base": "", "files": dict(tree)}

    # -- the cache

    def _cached(self, item: dict, repair: bool = False) -> str | None:
        """The path of an artifact that is in the cache with the right content, else None."""
        files, unverified = item["files"], None in item["files"].values()
        if unverified:
            # Nothing says what it should be: what was downloaded for this address before is used again.
            files = self._recorded(item)
            if files is None:
                return None
        directory = os.path.join(self.root, self._key(item, files))
        for path, sha256 in files.items():
            if _sha256_of(os.path.join(directory, path)) != sha256:
                if repair and os.path.lexists(directory):
                    damaged = os.path.join(directory, path)
                    self.warnings.append(f"{damaged} was missing or did not have its sum {sha256}; {item['name']} is fetched again.")
                    shutil.rmtree(directory)
                return None
        if item["tree"] and _count_files(directory) != len(files):
            if repair:
                self.warnings.append(f"{directory} contained files that do not belong to {item['name']}; it is fetched again.")
                shutil.rmtree(directory)
            return None
        return os.path.join(directory, item["base"]) if item["base"] else directory

    @staticmethod
    def _key(item: dict, files: dict[str, str]) -> str:
        return tree_sum(files) if item["tree"] else files[item["base"]]

    def _record_path(self, item: dict) -> str:
        known = "\n".join([item["origin"], *sorted(f"{path} {sha256}" for path, sha256 in item["files"].items())])
        return os.path.join(self.root, "unverified", hashlib.sha256(known.encode()).hexdigest())

    def _recorded(self, item: dict) -> dict[str, str] | None:
        """The sums computed when an unverified artifact was fetched; from packages its files are read anew each time."""
        if self.source == "packages":
            sums = {path: _sha256_of(self._origin_of(item, path)) for path in item["files"]}
            return None if None in sums.values() else sums
        try:
            with open(self._record_path(item), encoding="utf-8") as stream:
                lines = [line.rstrip("\n").split("  ", 1) for line in stream]
        except FileNotFoundError:
            return None
        recorded = {path: sha256 for sha256, path in (line for line in lines if len(line) == 2)}
        return recorded if set(recorded) == set(item["files"]) else None

    @staticmethod
    def _origin_of(item: dict, path: str) -> str:
        return f"{item['origin']}/{path}" if item["tree"] else item["origin"]

    def _warn_unverified(self, item: dict, directory: str) -> None:
        for path, sha256 in item["files"].items():
            if sha256 is None:
                computed = _sha256_of(os.path.join(directory, path) if item["tree"] else directory)
                self.warnings.append(
                    f"{self.component}: artifact {item['name']} from {self._origin_of(item, path)} is not verified: the release set has "
                    f"no sha256 for it. Its sum is {computed}; once you have made sure that this is right, record it (releases/record.py)."
                )

    # -- fetching

    def _fetch(self, items: list[dict]) -> None:
        """Fetch all files of the items in parallel; each item appears in the cache whole or not at all."""
        if not items:
            return
        if self.source == "packages":
            self._need_packages(items)
        os.makedirs(self.root, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=self.root) as temporary:
            jobs = [(item, path, os.path.join(temporary, item["name"], path)) for item in items for path in item["files"]]
            with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
                futures = {pool.submit(self._fetch_file, item, path, target): (item, path) for item, path, target in jobs}
                _done, waiting = concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
                for future in waiting:
                    future.cancel()
            problems = [str(future.exception()) for future in futures if future.done() and not future.cancelled() and future.exception()]
            if problems:
                more = f"\n({len(problems) - 1} more files failed as well)" if len(problems) > 1 else ""
                raise ArtifactError(problems[0] + more)
            sums: dict[str, dict[str, str]] = {item["name"]: {} for item in items}
            for future, (item, path) in futures.items():
                sums[item["name"]][path] = future.result()
            for item in items:
                self._keep(item, os.path.join(temporary, item["name"]), sums[item["name"]])

    def _keep(self, item: dict, directory: str, files: dict[str, str]) -> None:
        target = os.path.join(self.root, self._key(item, files))
        if os.path.lexists(target):  # unverified, and the same bytes as something verified
            shutil.rmtree(target)
        os.rename(directory, target)
        if None in item["files"].values() and self.source == "upstream":
            _write_atomically(self._record_path(item), "".join(f"{sha256}  {path}\n" for path, sha256 in files.items()))

    def _need_packages(self, items: list[dict]) -> None:
        origins = [self._origin_of(item, path) for item in items for path in item["files"]]
        missing = [origin for origin in origins if not os.path.isfile(origin)]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise ArtifactError(
                f"{self.component} {self.version}: {missing[0]}{more} does not exist. With platform_source=packages it is generated from "
                "source packages: run `make mirror` (playbooks/mirror.yml) for this release set, or set platform_source=upstream."
            )

    def _fetch_file(self, item: dict, path: str, target: str) -> str:
        """Fetch one file, check it, and say its sum."""
        origin, expected = self._origin_of(item, path), item["files"][path]
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if self.source == "packages":
            shutil.copyfile(origin, target)
        else:
            self._download(origin, target)
        got = _sha256_of(target)
        if expected and got != expected:
            remedy = (
                "The mirror generated other bytes than the release set expects. Run `make mirror` again; "
                "if it stays so, a source package has changed."
                if self.source == "packages"
                else "Do not use it: the file was replaced upstream, or a proxy answers in its place. Try again from another network; "
                "if it stays so, compare the file with its repository before you change the release set."
            )
            sums = f"  expected sha256 {expected}\n  got      sha256 {got}"
            raise ArtifactError(f"{origin} has the wrong content.\n{sums}\nNothing was kept. {remedy}")
        return got

    def _download(self, url: str, target: str) -> None:
        request = urllib.request.Request(url, headers={"User-Agent": "mlops.platform"})
        for attempt in range(RETRIES + 1):
            try:
                with self.opener.open(request, timeout=self.timeout) as answer:
                    with open(target, "wb") as stream:
                        shutil.copyfileobj(answer, stream, 1 << 20)
                    length = answer.headers.get("Content-Length")
                    if length is not None and os.path.getsize(target) != int(length):
                        raise ConnectionResetError(f"the answer ended after {os.path.getsize(target)} of {length} bytes")
                return
            except (OSError, urllib.error.URLError, ValueError) as error:
                if attempt == RETRIES or not _passes(error):
                    raise ArtifactError(f"{url} cannot be fetched: {_cause(error, self.timeout)}. {_remedy(error, url)}") from None
                time.sleep(0.5 * 2**attempt)

    @contextlib.contextmanager
    def _lock(self):
        """Let one run at a time write into the cache."""
        os.makedirs(self.root, exist_ok=True)
        patience = time.monotonic() + max(60.0, 10 * self.timeout)
        with open(os.path.join(self.root, ".lock"), "a+", encoding="utf-8") as stream:
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > patience:
                        stream.seek(0)
                        holder = stream.read().strip() or "unknown"
                        raise ArtifactError(
                            f"{stream.name} is held by another run (process {holder}) that has been fetching for long. "
                            "Wait for it to end, or stop it; the lock goes with it."
                        ) from None
                    time.sleep(0.1)
            stream.seek(0)
            stream.truncate()
            stream.write(f"{os.getpid()}\n")
            stream.flush()
            # Under the lock nobody else fetches: temporary directories are what a killed run left.
            for name in os.listdir(self.root):
                if name.startswith(".fetch-"):
                    shutil.rmtree(os.path.join(self.root, name), ignore_errors=True)
            yield


def _sha256_of(path: str) -> str | None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return digest.hexdigest()


def _count_files(directory: str) -> int:
    return sum(len(files) for _path, _directories, files in os.walk(directory))


def _write_atomically(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".", dir=os.path.dirname(path))
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.rename(temporary, path)


def _passes(error: Exception) -> bool:
    """Whether a failure may be gone at the next attempt. A time-out is not retried: it has cost its time already."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (429, 500, 502, 503, 504)
    reason = getattr(error, "reason", error)
    return isinstance(reason, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError))


def _cause(error: Exception, timeout: float) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    reason = getattr(error, "reason", error)
    if isinstance(reason, (socket.timeout, TimeoutError)):
        return f"no answer within {timeout:g} s"
    if isinstance(reason, socket.gaierror):
        return f"its host name cannot be resolved ({reason.strerror})"
    return str(reason)


def _remedy(error: Exception, url: str) -> str:
    if isinstance(error, urllib.error.HTTPError) and error.code in (404, 410):
        return "The address in the release set is wrong, or the file was removed upstream"
    proxies = urllib.request.getproxies()
    proxy = proxies.get(urllib.parse.urlsplit(url).scheme)
    about = f"The proxy {_without_password(proxy)} is in use (https_proxy): check it" if proxy else "Behind a proxy, set https_proxy"
    return (
        f"{about}; on a machine that reaches package registries only, build from packages: `make mirror`, then platform_source=packages "
        "(`make up` finds out by itself which of the two works)"
    )


def _without_password(proxy: str) -> str:
    parts = urllib.parse.urlsplit(proxy)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else proxy
