# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The HTTP server: finds the method a request means, checks it, gives it to the service's function, and keeps the state on disk."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import socket
import threading
import time
from collections import deque
from email.message import Message
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

from rehearsal import accounts, descriptions, errors, services
from rehearsal.call import HANDLERS, Call, project_of
from rehearsal.credentials import ALL, HOSTS, Credentials, OAuthError
from rehearsal.errors import Refused, where
from rehearsal.faults import Cut, Faults
from rehearsal.operations import Operations
from rehearsal.state import ACCOUNT, BILLED, load, merge, new_state, public, seed, write

REMEMBERED = 20000  # requests
# Counted to the caller's project; the other services' calls to the project whose resource they name.
CALLERS = {"cloudbilling", "cloudresourcemanager", "iam", "iamcredentials", "servicemanagement", "serviceusage"}
LONGEST_BODY = 10 * 2**20  # bytes, as Google's
# Scopes that a service takes though its description does not list them; google-auth asks for this one to impersonate.
UNLISTED = {"iamcredentials": ["https://www.googleapis.com/auth/iam"]}

for found in pkgutil.iter_modules(services.__path__):
    importlib.import_module(f"rehearsal.services.{found.name}")


class Rehearsal:
    """One server with its state. operation_seconds: how long an operation takes; token_seconds: how long a token is good for."""

    def __init__(
        self, directory: Path | str, port: int = 0, *, operation_seconds: float = 0.5, token_seconds: int = 3600, access_token: str = "",
        kubeconfig: str = "", context: str = "",
    ):  # fmt: skip
        self.state_dir = Path(directory)
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.operation_seconds, self.kubeconfig, self.context = operation_seconds, kubeconfig, context
        self.lock = threading.RLock()
        self.operations = Operations(self)
        self.requests: deque[dict] = deque(maxlen=REMEMBERED)
        self.count = 0
        self._file = self.state_dir / "state.json"
        self.state = load(self._file)
        self._http = _Server(("127.0.0.1", port), _Handler)
        self._http.rehearsal = self
        self.port = self._http.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.credentials = Credentials(self.state_dir, self.endpoint, token_seconds)
        self.credentials_file = str(self.credentials.file)
        self.tls = self.credentials.tls()
        if access_token:
            self.credentials.issue(ACCOUNT, [ALL], seconds=0, token=access_token)
        self.save()

    def start(self) -> Rehearsal:
        """Serves in a thread of its own."""
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def serve(self) -> None:
        """Serves until stop() is called by another thread."""
        self._http.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """Ends serving and closes the port; the state is on disk."""
        self._http.shutdown()
        self._http.server_close()
        with self.lock:
            self.save()

    def save(self) -> None:
        """The state to disk."""
        write(self._file, json.dumps(self.state))

    def reset(self) -> None:
        """Back to the first project and nothing else; keys and tokens stay good."""
        with self.lock:
            self.state = new_state()
            self.requests.clear()
            self.save()
            self.advertise()

    def advertise(self) -> None:
        """Shows the GPUs of node pools on the cluster's node: a restarted kubelet forgets them."""
        if self.kubeconfig:
            from rehearsal.services import container

            container.advertise(self)

    def token(self, principal: str = "") -> str:
        """A new access token, by default of the service account in the credentials file."""
        with self.lock:
            return self.issue(principal or ACCOUNT, [ALL])

    def issue(self, principal: str, scopes: list[str], seconds: int | None = None) -> str:
        """A new access token with scopes; seconds: how long it is good for, if not as long as the others."""
        made = ""
        if self.kubeconfig:  # one that the cluster takes too, as GKE takes Google's
            from rehearsal import cluster

            made = cluster.token(self.kubeconfig, self.context, principal, seconds or self.credentials.token_seconds)
        return self.credentials.issue(principal, scopes, seconds=seconds, token=made)

    def pause(self, seconds: float) -> None:
        """Sleeps without holding up the other requests. For functions that hold the lock once."""
        self.lock.release()
        try:
            time.sleep(max(seconds, 0))
        finally:
            self.lock.acquire()

    def title(self, call: Call) -> str:
        """What Google calls the service, e.g. Kubernetes Engine API."""
        return descriptions.served(call.service, call.version).title

    def answer(self, verb: str, path: str, query: str, headers: Message, body: object, record: dict) -> dict:
        """What a service answers; path: <service>/<path there>. Raises Refused and Cut. record: what to remember of the request."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        token = token.strip() if scheme == "Bearer" else ""
        service, _, rest = path.partition("/")
        if service == "www":  # older URLs share a host: www.googleapis.com/compute/v1/…
            service = rest.partition("/")[0]
        description, method, named = descriptions.find(service, verb, rest)
        record["method"] = method["id"]
        if method["id"] == "oauth2.tokeninfo":  # the one that tells about a token instead of needing one
            return accounts.token_info(self, dict(parse_qsl(query)).get("access_token", ""))
        with self.lock:
            entry = self.credentials.check(token)
            record["principal"] = entry["principal"]
            params = description.parameters(method, named, query)
            call = Call(
                self,
                method["id"],
                method,
                service,
                description.version,
                params,
                description.body(method, body),
                entry["principal"],
                headers.get("X-Goog-User-Project", ""),
            )
            record["project"] = call.project_id
            may_change = self.operations.settle() or verb != "GET" or bool(self.state["faults"])  # faults are counted
            try:
                self._may_use(call)
                return self._run(call, method, description, entry, token)
            finally:
                if may_change:
                    self.save()

    def _run(self, call: Call, method: dict, description: descriptions.Description, entry: dict, token: str) -> dict:
        if Faults.take(call, "token_expired"):
            self.credentials.expire(token)
            self.credentials.check(token)
        if not {ALL, *method.get("scopes", []), *UNLISTED.get(call.service, ())} & set(entry["scopes"]):
            detail = errors.info("ACCESS_TOKEN_SCOPE_INSUFFICIENT", service=f"{call.service}.googleapis.com", method=call.method)
            raise Refused(403, "", "Request had insufficient authentication scopes.", [detail])
        self._available(call)
        Faults.before(call)
        if call.method not in HANDLERS:
            raise Refused(501, "", f"The rehearsal does not imitate {call.method}.")
        answer = HANDLERS[call.method](call)
        if wrong := description.answer(method, answer):
            raise Refused(500, "", f"The rehearsal's own answer to {call.method} is not as described: {'; '.join(wrong)}")
        if Faults.take(call, "cut", when="after"):
            raise Cut
        return _part(answer, call.params.get("fields", ""))

    def _may_use(self, call: Call) -> None:
        """Refuses if the caller may not have calls counted to the project that the header names."""
        project, use = call.quota_project, "serviceusage.services.use"
        if project and (project not in self.state["projects"] or Faults.lacking(call, [use])):
            message = (
                f"Caller does not have required permission to use project {project}. Grant the caller the "
                f"roles/serviceusage.serviceUsageConsumer role, or a custom role with the {use} permission, by visiting "
                f"https://console.developers.google.com/iam-admin/iam/project?project={project} and then retry."
            )
            detail = errors.info("USER_PROJECT_DENIED", service=f"{call.service}.googleapis.com", consumer=f"projects/{project}")
            raise Refused(403, "", message, [detail])

    def _available(self, call: Call) -> None:
        """Refuses if the API is off in the project that the call is counted to, or the project has no billing."""
        counted_to_caller = call.service in CALLERS or not project_of(call.params)
        project = self.state["projects"].get(call.quota_project or _home(call.principal) if counted_to_caller else call.project_id)
        if project is None or call.service == "oauth2":
            return
        if f"{call.service}.googleapis.com" not in project["services"]:
            raise errors.service_disabled(call.service, self.title(call), project["projectNumber"])
        if call.service in BILLED and not project["billing"]["billingEnabled"]:
            raise errors.billing_disabled(call.service, project["projectNumber"])

    def remember(self, record: dict) -> None:
        """One line of the log: never bodies, queries or tokens."""
        with self.lock:
            self.count += 1
            record["number"] = self.count
            self.requests.append(record)

    def admin(self, verb: str, name: str, query: str, body: dict) -> object:
        """The rehearsal's own API, below /rehearsal/."""
        with self.lock:
            self.operations.settle()
            match verb, name:
                case "GET", "status":
                    return {"pid": os.getpid(), "endpoint": self.endpoint, "state_dir": str(self.state_dir), "requests": self.count,
                            "projects": sorted(self.state["projects"]), "faults": len(self.state["faults"])}  # fmt: skip
                case "GET", "state":
                    return public(self.state)
                case "PATCH", "state":
                    merge(self.state, body)
                case "POST", "reset":
                    self.reset()
                case "POST", "seed":
                    seed(self.state, body)
                case "GET", "faults":
                    return public(self.state["faults"])
                case "POST", "faults":
                    try:
                        return Faults.add(self.state, body)
                    except ValueError as error:
                        raise Refused(400, "", str(error)) from error
                    finally:
                        self.save()
                case "DELETE", "faults":
                    self.state["faults"].clear()
                case "GET", "requests":
                    asked = parse_qs(query)
                    return self.log(asked.get("method", ["*"])[0], int(asked.get("since", ["0"])[0]))
                case "GET", "metrics":
                    return self._metrics()
                case _:
                    raise Refused(404, "", f"The rehearsal has no {verb} /rehearsal/{name}; see rehearsal/README.md.")
            self.save()
            return {}

    def log(self, method: str = "*", since: int = 0) -> list[dict]:
        """What was asked, oldest first: requests with a number over since, of methods that match a glob."""
        return [record for record in list(self.requests) if record["number"] > since and fnmatchcase(record["method"], method)]

    def _metrics(self) -> dict:
        methods: dict[str, dict] = {}
        for record in self.requests:
            one = methods.setdefault(record["method"], {"requests": 0, "refused": 0, "seconds": 0.0})
            one["requests"] += 1
            one["refused"] += record["status"] >= 400
            one["seconds"] = round(one["seconds"] + record["seconds"], 4)
        return {"requests": self.count, "methods": dict(sorted(methods.items()))}


def _home(principal: str) -> str:
    """Project of a service account, which its calls are counted to; "" for a user, whose calls a program's own project bears."""
    name = principal.rpartition("@")[2]
    return name.removesuffix(".iam.gserviceaccount.com") if name.endswith(".iam.gserviceaccount.com") else ""


def _part(answer: dict, fields: str) -> dict:
    """The fields that the parameter "fields" asks for, at the first level: items(name,zone),nextPageToken."""
    if not fields or fields == "*":
        return answer
    depth, names = 0, [""]
    for letter in fields:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            names.append("")
        else:
            names[-1] += letter
    wanted = {name.split("(")[0].split("/")[0].strip() for name in names}
    return {key: value for key, value in answer.items() if key in wanted}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    rehearsal: Rehearsal

    def handle_error(self, request: socket.socket, client_address: tuple) -> None:
        """A client that went away is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 600  # of an idle connection
    host = ""  # inside a tunnel: the host it was opened to

    def log_message(self, format: str, *args: object) -> None:
        """Own lines instead, which hold no query."""

    def do_CONNECT(self) -> None:
        """A tunnel to one of Google's hosts ends here: TLS with a certificate by the rehearsal's CA, then requests as any other."""
        host, _, port = self.path.partition(":")
        if not any(fnmatchcase(host, glob) for glob in HOSTS) or port != "443":
            self._reply(403, {"error": f"the rehearsal stands in for {' and '.join(HOSTS)} only, not for {self.path}"})
            self.close_connection = True
            return
        self.send_response(200, "Connection established")
        self.end_headers()
        self.wfile.flush()
        self.connection = self.server.rehearsal.tls.wrap_socket(self.connection, server_side=True)
        self.connection.settimeout(self.timeout)
        self.rfile, self.wfile = self.connection.makefile("rb", self.rbufsize), self.connection.makefile("wb")
        self.host, self.close_connection = host, False

    def finish(self) -> None:
        """Closes a tunnel's TLS too."""
        super().finish()
        if self.host:
            with contextlib.suppress(OSError):
                self.connection.close()

    def _body(self) -> bytes:
        size = int(self.headers.get("Content-Length") or 0)
        if size > LONGEST_BODY:
            self.close_connection = True
            raise Refused(413, "", "Request payload size exceeds the limit: 10485760 bytes.")
        return self.rfile.read(size)

    def _handle(self) -> None:
        url = urlsplit(self.path)
        path, started = url.path.lstrip("/"), time.monotonic()
        if self.host:
            path = f"{self.host.split('.')[0]}/{path}"
        record: dict = {"time": time.time(), "verb": self.command, "path": path, "method": "", "principal": "", "project": ""}
        service = path.partition("/")[0]
        headers: dict = {}
        try:
            status, answer = self._answer(path, url.query, self._body(), record, headers)
        except Refused as error:
            status, answer = error.http, error.body(service)
            if status == 401:
                headers["WWW-Authenticate"] = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
        except OAuthError as error:
            status, answer = error.http, error.body
        except Cut:
            status, answer = 0, None
        except Exception as error:  # a mistake in the rehearsal itself
            status, answer = 500, Refused(500, "", f"The rehearsal failed: {where(error)}").body(service)
        record |= {"status": status, "seconds": round(time.monotonic() - started, 4)}
        if service != "rehearsal":
            self.server.rehearsal.remember(record)
            print(*(record[key] or "-" for key in ("verb", "path", "method", "status", "principal", "seconds")), flush=True)
        if status:
            self._reply(status, answer, headers)
        else:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _answer(self, path: str, query: str, data: bytes, record: dict, headers: dict) -> tuple[int, object]:
        rehearsal = self.server.rehearsal
        service, _, rest = path.partition("/")
        if service == "rehearsal":
            return 200, rehearsal.admin(self.command, rest, query, _json(data))
        if page := accounts.PAGES.get((self.command, path)):
            record["method"] = f"{service}.{page.__name__}"
            return page(rehearsal, query, data, headers)
        return 200, rehearsal.answer(self.command, path, query, self.headers, _json(data), record)

    def _reply(self, status: int, answer: object, headers: dict | None = None) -> None:
        data = json.dumps(answer, indent=2).encode() if answer is not None else b""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json; charset=UTF-8", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def _json(data: bytes) -> object:
    try:
        return json.loads(data) if data.strip() else {}
    except ValueError as error:
        raise errors.violations([("", f"Invalid JSON payload received. {error}")]) from error
