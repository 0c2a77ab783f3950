# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""HTTP requests repeated until the answer is the expected one. The standard library only; no proxy, no redirect is followed unasked."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 1.0


@dataclass
class Answer:
    """What came back: a status with headers and body, or the error instead."""

    status: int | None = None
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return self.error
        body = self.body.strip()
        where = f" to {self.headers['location']}" if "location" in self.headers else ""
        said = f"body {body[:300]!r}{'…' if len(body) > 300 else ''}" if body else "no body"
        return f"status {self.status}{where}, {said}"


@dataclass
class Request:
    """One request. `host` stands in for the URL's host in the Host header and, with TLS, in the name that is asked for and checked."""

    url: str
    method: str = "GET"
    host: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout: float = 10.0
    proxy: str | None = None
    validate_certs: bool = True
    ca_path: str | None = None

    def send(self, timeout: float | None = None) -> Answer:
        """Send it once."""
        url = urlsplit(self.url)
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        headers = {"Host": self.host or url.netloc.rpartition("@")[2], "User-Agent": "mlops.platform", "Accept": "*/*", **self.headers}
        if self.proxy and url.scheme == "http":
            target = f"http://{url.netloc}{target}"
        connection = self._connection(url, min(self.timeout, timeout or self.timeout))
        try:
            connection.request(self.method, target, body=self.body, headers=headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            return Answer(response.status, text, {name.lower(): value for name, value in response.getheaders()})
        except TimeoutError:
            return Answer(error=f"no answer from {url.netloc} within {connection.timeout:.1f} s")
        except (OSError, http.client.HTTPException) as error:
            return Answer(error=f"cannot talk to {url.netloc}: {type(error).__name__}: {error}")
        finally:
            connection.close()

    def _connection(self, url, timeout: float) -> http.client.HTTPConnection:
        port = url.port or (443 if url.scheme == "https" else 80)
        proxy = urlsplit(self.proxy) if self.proxy else None
        via = (proxy.hostname, proxy.port or 3128) if proxy else (url.hostname, port)
        if url.scheme != "https":
            return http.client.HTTPConnection(*via, timeout=timeout)
        context = ssl.create_default_context(cafile=self.ca_path)
        if not self.validate_certs:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        name = urlsplit(f"//{self.host}").hostname if self.host else url.hostname
        connection = _NamedHttps(*via, timeout=timeout, context=context, name=name)
        if proxy:
            connection.set_tunnel(url.hostname, port)
        return connection


class _NamedHttps(http.client.HTTPSConnection):
    """HTTPS to one address under the name of another, as behind a gateway whose DNS name does not exist yet."""

    def __init__(self, *args, context: ssl.SSLContext, name: str, **kwargs):
        super().__init__(*args, context=context, **kwargs)
        self._tls, self._name = context, name

    def connect(self) -> None:
        """Connect, through the tunnel if one is set, and shake hands with the wanted name."""
        http.client.HTTPConnection.connect(self)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


@dataclass
class Expectation:
    """What the answer must be. `json` is compared as a JSON value, `body` as text without white space around it."""

    statuses: list[int] = field(default_factory=lambda: [200])
    body: str | None = None
    json: object = None
    has_json: bool = False

    def complaint(self, answer: Answer) -> str:
        """Nothing if the answer is as expected, else what is wrong."""
        if answer.error:
            return answer.error
        if answer.status not in self.statuses:
            return f"expected status {' or '.join(map(str, self.statuses))}"
        if self.body is not None and answer.body.strip() != self.body.strip():
            return f"expected body {self.body.strip()!r}"
        if self.has_json:
            try:
                value = json.loads(answer.body)
            except ValueError:
                return f"expected JSON {json.dumps(self.json)}, the body is not JSON"
            if not same_json(value, self.json):
                return f"expected JSON {json.dumps(self.json)}"
        return ""


def same_json(one, other) -> bool:
    """Equality of JSON values: numbers by value, but true is not 1, nor false 0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return isinstance(one, bool) and isinstance(other, bool) and one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same_json(a, b) for a, b in zip(one, other, strict=True))
    return one == other


@dataclass
class Result:
    """How the attempts ended: `complaint` is empty if the last answer was the expected one."""

    answer: Answer
    complaint: str
    attempts: int
    seconds: float
    hopeless: str = ""


def until_expected(
    request: Request,
    expected: Expectation,
    timeout: float,
    hopeless: Callable[[], str] = lambda: "",
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Repeat the request until the answer is the expected one, `timeout` seconds are over, or `hopeless` says why to give up."""
    start, attempts, pause = clock(), 0, FIRST_PAUSE
    while True:
        attempts += 1
        answer = request.send(max(0.5, timeout - (clock() - start)))
        complaint = expected.complaint(answer)
        seconds = clock() - start
        result = Result(answer, complaint, attempts, round(seconds, 1))
        if complaint and seconds < timeout:
            result.hopeless = hopeless()
        if not complaint or result.hopeless or seconds + 0.05 >= timeout:
            return result
        sleep(min(pause, max(0.05, timeout - seconds)))
        pause = min(pause * 1.5, LONGEST_PAUSE)
