"""A client of the Kubernetes API on the standard library: requests, and watches that keep a copy of what they watch."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import socket
import ssl
import threading
import time
import urllib.parse

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, message: str):
        """Keep the HTTP status and the server's words."""
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """The API server as a pod reaches it. Each thread has its own connection."""

    def __init__(self, host: str | None = None, port: int | None = None, account: pathlib.Path = ACCOUNT):
        """Take the address from the environment of a pod, and token and authority from its service account, where not given."""
        self.host = host or os.environ["KUBERNETES_SERVICE_HOST"]
        self.port = port or int(os.environ["KUBERNETES_SERVICE_PORT"])
        self.account = account
        self.tls = ssl.create_default_context(cafile=str(account / "ca.crt"))
        self._local = threading.local()

    def connect(self, timeout: float) -> http.client.HTTPSConnection:
        """A new connection."""
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.tls)

    def headers(self) -> dict[str, str]:
        """Headers of every request; the token is read anew because the kubelet renews it."""
        token = (self.account / "token").read_text().strip()
        return {"Authorization": f"Bearer {token}", "Accept": "application/json", "User-Agent": "net-istio-stand-in"}

    def request(self, method: str, path: str, body: dict | None = None, content_type: str = "application/json") -> dict:
        """One request; answers the parsed body or raises ApiError."""
        payload = None if body is None else json.dumps(body)
        headers = self.headers() | ({"Content-Type": content_type} if body is not None else {})
        for attempt in (1, 2):
            connection = getattr(self._local, "connection", None)
            reused = connection is not None
            if not reused:
                connection = self._local.connection = self.connect(timeout=10)
            try:
                connection.request(method, path, payload, headers)
                response = connection.getresponse()
                text = response.read()
                break
            except (OSError, http.client.HTTPException):
                connection.close()
                self._local.connection = None
                # the server closes idle connections: only a fresh one that fails tells of trouble
                if not reused or attempt == 2:
                    raise
        answer = json.loads(text) if text else {}
        if response.status >= 400:
            raise ApiError(response.status, answer.get("message", "") if isinstance(answer, dict) else str(answer))
        return answer

    def get(self, path: str) -> dict | None:
        """An object, or None where there is none."""
        try:
            return self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise


def key_of(item: dict) -> tuple[str, str]:
    """Namespace and name."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


class Watch:
    """Keeps `items` equal to what the API server has, and calls changed(item) for every item that came, changed or went."""

    def __init__(self, api: Api, path: str, changed, log, **query: str):
        """Start watching path in a thread; query: labelSelector, fieldSelector."""
        self.api, self.path, self.changed, self.log, self.query = api, path, changed, log, query
        self.items: dict[tuple[str, str], dict] = {}
        self.synced = threading.Event()
        self._stopped = False
        self._connection: http.client.HTTPSConnection | None = None
        threading.Thread(target=self._run, name=path, daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped = True
        connection = self._connection
        if connection and connection.sock:
            connection.sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        delay = 0.2
        while not self._stopped:
            try:
                version = self._list()
                delay = 0.2
                while not self._stopped:
                    version = self._stream(version)
            except ApiError as error:
                if error.status == 410:  # the server forgot the version we stood at: list again
                    continue
                self.log(f"watching {self.path}: {error}")
            except (OSError, http.client.HTTPException, ValueError) as error:
                if self._stopped:
                    return
                self.log(f"watching {self.path}: {error!r}")
            time.sleep(delay)
            delay = min(delay * 2, 10)

    def _list(self) -> str:
        answer = self.api.request("GET", f"{self.path}?{urllib.parse.urlencode(self.query)}")
        kind = {"apiVersion": answer["apiVersion"], "kind": answer["kind"].removesuffix("List")}
        before, self.items = self.items, {key_of(item): kind | item for item in answer.get("items") or []}
        self.synced.set()
        for key in before.keys() | self.items.keys():
            if before.get(key) != self.items.get(key):
                self.changed(self.items.get(key) or before[key])
        return answer["metadata"]["resourceVersion"]

    def _stream(self, version: str) -> str:
        query = self.query | {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": "300"}
        self._connection = connection = self.api.connect(timeout=330)
        try:
            connection.request("GET", f"{self.path}?{urllib.parse.urlencode(query)}", headers=self.api.headers())
            response = connection.getresponse()
            if response.status >= 400:
                raise ApiError(response.status, response.read().decode(errors="replace"))
            for line in response:
                event = json.loads(line)
                item = event["object"]
                if event["type"] == "ERROR":
                    raise ApiError(item.get("code", 500), item.get("message", ""))
                version = item["metadata"]["resourceVersion"]
                if event["type"] == "BOOKMARK":
                    continue
                if event["type"] == "DELETED":
                    self.items.pop(key_of(item), None)
                else:
                    self.items[key_of(item)] = item
                self.changed(item)
        finally:
            connection.close()
        return version
