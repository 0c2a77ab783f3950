# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One client for Google Cloud's APIs: credentials, calls by their ids in Google's descriptions, pages, operations, errors with remedies.

The Google libraries are imported when a client is made, and a description is read when its service is first called.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import json
import os
import random
import re
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from urllib.parse import quote, urlencode, urlsplit

from ansible_collections.mlops.platform.plugins.module_utils.gcp import descriptions
from ansible_collections.mlops.platform.plugins.module_utils.gcp.descriptions import VERSIONS  # noqa: F401

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
TIMEOUTS = (10, 120)  # seconds to connect, to answer
BACKOFF = (0.5, 1, 2, 4, 8, 16, 32)  # seconds between attempts
FIRST_CONTACT = 3  # attempts as long as nothing has ever answered: a wrong endpoint is reported within seconds
PROPAGATION = 180  # seconds that a service may take until it answers everywhere after it was switched on
POLL_FIRST, POLL_LAST = 0.2, 10.0  # seconds between two looks at an operation
REPORT_FROM = 2  # seconds that an operation takes before it is worth a line
REPORT_EVERY = 30  # seconds between two equal lines of progress
# Projects of Google's own programs, which tokens of people are charged to unless a project is named
GCLOUD_PROJECTS = ("32555940559", "764086051850")

# What to grant for a missing permission: the first prefix that matches
ROLES = {
    "compute.": "roles/compute.admin",
    "container.": "roles/container.admin",
    "iam.serviceAccounts.actAs": "roles/iam.serviceAccountUser",
    "iam.serviceAccounts.getAccessToken": "roles/iam.serviceAccountTokenCreator",
    "iam.": "roles/iam.serviceAccountAdmin",
    "iap.": "roles/iap.admin",
    "krmapihosting.": "roles/krmapihosting.admin",
    "resourcemanager.projects.setIamPolicy": "roles/resourcemanager.projectIamAdmin",
    "resourcemanager.projects.getIamPolicy": "roles/resourcemanager.projectIamAdmin",
    "resourcemanager.": "roles/browser",
    "secretmanager.versions.access": "roles/secretmanager.secretAccessor",
    "secretmanager.": "roles/secretmanager.viewer",
    "servicemanagement.": "roles/servicemanagement.admin",
    "serviceusage.services.use": "roles/serviceusage.serviceUsageConsumer",
    "serviceusage.": "roles/serviceusage.serviceUsageAdmin",
}
PERMISSION = re.compile(r"\b[a-z][a-z]+\.[a-zA-Z]+\.[a-zA-Z]+(?:\.[a-zA-Z]+)?\b")


class GcpError(Exception):
    """A call that failed. `status` is HTTP's (0: no answer), `code` Google's name of it, `reason` the most specific name there is."""

    def __init__(self, message: str, remedy: str = "", *, status: int = 0, code: str = "", reason: str = "", details: list | None = None):
        super().__init__(f"{message} Remedy: {remedy}." if remedy else message)
        self.message, self.remedy = message, remedy
        self.status, self.code, self.reason, self.details = status, code, reason or code, details or []


class NotFound(GcpError):
    """404."""


class AlreadyExists(GcpError):
    """409 of something that is there already."""


class Conflict(GcpError):
    """Somebody else changed it meanwhile: an etag or fingerprint that no longer holds, or an aborted call."""


class BadRequest(GcpError):
    """400: what was sent is not accepted, or not now."""


class Denied(GcpError):
    """403. `permission` and `principal` are what is missing to whom, as far as it is known."""

    permission: str = ""
    principal: str = ""


class ApiDisabled(Denied):
    """The service is not switched on in the project."""

    service: str = ""


class BillingDisabled(GcpError):
    """The project has no billing account, or a closed one."""


class QuotaExceeded(GcpError):
    """`limit` and `usage` are numbers, or None where the answer does not tell; `region` is empty for a global quota."""

    metric: str = ""
    limit: float | None = None
    usage: float | None = None
    region: str = ""


class Unreachable(GcpError):
    """No answer, or one that says try again (5xx), more often than there was patience for."""


class TokenExpired(GcpError):
    """The credentials are not, or no longer, accepted."""


class OperationFailed(GcpError):
    """A long-running operation that ended with an error. `cause` is that error as one of the classes above, `operation` the operation."""

    def __init__(self, message: str, cause: GcpError, operation: dict):
        super().__init__(message, cause.remedy, status=cause.status, code=cause.code, reason=cause.reason, details=cause.details)
        self.cause, self.operation = cause, operation


class OperationTimeout(GcpError):
    """A long-running operation that is still running. `operation` is its last state."""

    operation: dict = {}


class Gcp:
    """One set of credentials for one project; threads may share it.

    Credentials: `access_token`, else `credentials_file` (service account, authorized user, external account, impersonation), else the
    application default ones; `impersonate` (a service account's e-mail) on top. `endpoint` moves every service: what Google serves at
    https://SERVICE.googleapis.com/PATH is asked at ENDPOINT/SERVICE/PATH. `timeout` is the longest wait for an operation, in seconds.
    `report` is called with lines of progress, which are in `progress` too.
    """

    def __init__(
        self,
        project: str = "",
        credentials_file: str = "",
        impersonate: str = "",
        access_token: str = "",
        endpoint: str = "",
        timeout: int = 1800,
        report: Callable[[str], None] | None = None,
    ):
        self.project, self.endpoint, self.timeout = project or "", (endpoint or "").rstrip("/"), timeout
        self.progress: list[str] = []
        self._report = report
        self._lock = threading.Lock()
        self._answered = False
        self._email = self._impersonator = ""
        _check_endpoint(self.endpoint, credentials_file or access_token)
        self._session = _session()
        self._credentials, self._refreshable, person = _credentials(credentials_file or "", access_token or "")
        if impersonate:
            self._impersonator = _email_of(self._credentials)
            self._credentials, self._refreshable, person = self._impersonated(impersonate, person), True, False
        # Calls of a person are charged to the project that is meant, unless the credentials name another; those of a service account
        # to its own. Who may not use the project that way may still call most services without naming it: see _changed_quota_project.
        named = os.environ.get("GOOGLE_CLOUD_QUOTA_PROJECT") or getattr(self._credentials, "quota_project_id", None) or ""
        self._quota_project = named or (self.project if person else "")
        self._quota_project_chosen = bool(named)

    def __str__(self) -> str:
        return f"{self.endpoint or 'Google Cloud'}, project {self.project or '(none)'}"

    def report(self, line: str) -> None:
        """A line of progress."""
        self.progress.append(line)
        if self._report:
            self._report(line)

    @property
    def principal(self) -> str:
        """The e-mail address of the caller where the credentials tell, else "the caller"."""
        return _email_of(self._credentials) or self._email or "the caller"

    # -- credentials ------------------------------------------------------------------------------------------------------------

    def _impersonated(self, account: str, by_person: bool):
        from google.auth import impersonated_credentials

        if by_person and self.project and not self._credentials.quota_project_id:
            self._credentials = self._credentials.with_quota_project(self.project)
        override = None
        if self.endpoint:
            override = f"{self.endpoint}/iamcredentials/v1/projects/-/serviceAccounts/{account}:generateAccessToken"
        return impersonated_credentials.Credentials(self._credentials, account, list(SCOPES), iam_endpoint_override=override)

    def token(self) -> str:
        """A valid access token. Raises TokenExpired, Denied (impersonation) or Unreachable."""
        from google.auth import exceptions
        from google.auth.transport.requests import Request

        with self._lock:
            if not self._credentials.valid and self._refreshable:
                try:
                    self._credentials.refresh(Request(self._session))
                except exceptions.TransportError as error:
                    raise Unreachable(
                        f"No access token: its issuer cannot be reached ({_cause(error)}).",
                        "check network and proxy (HTTPS_PROXY, NO_PROXY)",
                        reason="NOT_CONNECTED",
                    ) from error
                except (exceptions.GoogleAuthError, ValueError) as error:
                    raise _refused_token(error, self.principal, impersonator=self._impersonator) from error
            return self._credentials.token or ""

    def _renew(self, token: str) -> bool:
        """After a 401: forget this token. False if there is no other."""
        with self._lock:
            if not self._refreshable:
                return False
            if self._credentials.token == token:
                self._credentials.token = None
            return True

    def _who(self) -> str:
        """The principal, asked for where the credentials do not tell: people often use another account than they think."""
        if self.principal == "the caller" and not self.endpoint:
            with contextlib.suppress(GcpError):
                self._email = self.call("oauth2.userinfo.get", retry=False).get("email", "")
        return self.principal

    # -- calls ------------------------------------------------------------------------------------------------------------------

    def call(self, method: str, body: dict | None = None, *, retry: bool | None = None, **parameters) -> dict:
        """Call a method by its id, e.g. container.projects.locations.clusters.create; parameters by their names in the description.

        A parameter named project is this client's project unless it is given. What is known not to have been done (rate limits, no
        connection, an expired token) is tried again; what may have been done (5xx, a cut connection) only for a GET or with retry=True,
        and nothing with retry=False. Raises a GcpError.
        """
        described = descriptions.method(method)
        url = self._url(method, described, parameters)
        may_repeat = described["httpMethod"] == "GET" if retry is None else retry
        renewed, enabled_until = False, 0.0
        attempt = 0
        while True:
            wait = BACKOFF[attempt] * random.uniform(0.8, 1.2) if attempt < len(BACKOFF) else None
            if retry is False or (not self._answered and attempt >= FIRST_CONTACT - 1):
                wait = None
            attempt += 1
            try:
                token = self.token()
                response = self._send(described, url, token, body)
            except Unreachable as error:
                if wait is None or not (may_repeat or error.reason == "NOT_CONNECTED"):
                    raise self._unanswered(method, error, may_repeat) from error.__cause__
                time.sleep(wait)
                continue
            self._answered = True
            if response.status_code < 400:
                return _parsed(response)
            error = self._error(method, response)
            if response.status_code == 401 and not renewed and self._renew(token):
                renewed = True
                continue
            if self._changed_quota_project(error):
                continue
            if isinstance(error, ApiDisabled) and retry is not False:
                enabled_until = enabled_until or self._enabled_meanwhile(error)
                if time.monotonic() < enabled_until:
                    time.sleep(BACKOFF[min(attempt, 4)])
                    continue
            if _limited(error) or (may_repeat and isinstance(error, Unreachable)):
                asked = _retry_after(response)
                if wait is not None:
                    time.sleep(max(wait, asked))
                    continue
            raise self._named(error)

    def pages(self, method: str, items: str, **parameters) -> list | dict:
        """All items over all pages. Where the answers hold a mapping (aggregatedList), one mapping with the lists of all pages joined."""
        found: list | dict = []
        token = ""
        while True:
            answer = self.call(method, **parameters, **({"pageToken": token} if token else {}))
            page = answer.get(items)
            if isinstance(page, dict):
                found = found or {}
                for key, value in page.items():
                    known = found.setdefault(key, {})
                    for name, part in value.items():
                        known[name] = known[name] + part if isinstance(known.get(name), list) and isinstance(part, list) else part
            elif page:
                found += page
            token = answer.get("nextPageToken", "")
            if not token:
                return found

    def _url(self, method: str, described: dict, parameters: dict) -> str:
        service = method.partition(".")[0]
        document = descriptions.description(service)
        known = {**document.get("parameters", {}), **described.get("parameters", {})}
        given = {name: value for name, value in parameters.items() if value is not None}
        if "project" in described.get("parameters", {}):
            given.setdefault("project", self.project)
        unknown = sorted(set(given) - set(known))
        missing = [name for name, parameter in known.items() if parameter.get("required") and name not in given]
        if unknown or missing:
            raise TypeError(f"{method}: unknown parameters {unknown}, missing parameters {missing}")
        path = re.sub(
            r"\{(\+?)([\w.-]+)\}",
            lambda match: quote(str(given[match[2]]), safe="/" if match[1] else ""),
            described["path"],
        )
        query = []
        for name, value in given.items():
            if known[name].get("location") != "path":
                query += [(name, _query_value(item)) for item in (value if isinstance(value, (list, tuple)) else [value])]
        base = f"{self.endpoint}/{service}/" if self.endpoint else document["rootUrl"]
        return base + document.get("servicePath", "") + path + ("?" + urlencode(query) if query else "")

    def _send(self, described: dict, url: str, token: str, body: dict | None):
        """One request. Raises Unreachable, with reason NOT_CONNECTED where the request cannot have arrived."""
        import requests
        import urllib3

        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "User-Agent": "mlops.platform"}
        if self._quota_project:
            headers["x-goog-user-project"] = self._quota_project
        if described.get("apiVersion"):
            headers["x-goog-api-version"] = described["apiVersion"]
        http_method, data = described["httpMethod"], None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body, separators=(",", ":")).encode()
        elif http_method in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = "0"
        try:
            return self._session.request(http_method, url, data=data, headers=headers, timeout=TIMEOUTS, allow_redirects=False)
        except requests.exceptions.SSLError as error:
            raise Unreachable(
                f"TLS with {urlsplit(url).netloc} failed: {_cause(error)}.",
                "where a proxy ends TLS, let REQUESTS_CA_BUNDLE name a file with its certificate authority",
            ) from error
        except requests.exceptions.RequestException as error:
            inner = getattr(error.args[0] if error.args else None, "reason", None)
            not_connected = isinstance(error, (requests.exceptions.ConnectTimeout, requests.exceptions.ProxyError)) or isinstance(
                inner, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
            )
            raise Unreachable(
                f"{urlsplit(url).netloc} does not answer: {_cause(error)}.",
                "check network and proxy (HTTPS_PROXY, NO_PROXY)" if not _is_loopback(url) else "start what should listen there",
                reason="NOT_CONNECTED" if not_connected else "CUT",
            ) from error

    def _unanswered(self, method: str, error: Unreachable, may_repeat: bool) -> Unreachable:
        doubt = (
            ""
            if may_repeat or error.reason == "NOT_CONNECTED"
            else " It is not known whether the call took effect; a further run finds out."
        )
        return Unreachable(f"{method}: {error.message}{doubt}", error.remedy, reason=error.reason)

    def _error(self, method: str, response) -> GcpError:
        answer = _parsed(response)
        return error_of(response.status_code, answer, method=method, project=self.project)

    def _named(self, error: GcpError) -> GcpError:
        """A refusal, with the caller's name and what to grant."""
        if type(error) is Denied and not error.remedy:
            return _denied(error, self._who(), self.project)
        if isinstance(error, TokenExpired):
            return _refused_token(error.message, self.principal, self._refreshable)
        return error

    def _changed_quota_project(self, error: GcpError) -> bool:
        """Whether the call is worth repeating, with another project to be charged than before."""
        if not isinstance(error, Denied) or self._quota_project_chosen:
            return False
        if self._quota_project and error.reason == "USER_PROJECT_DENIED":
            self._quota_project, self._quota_project_chosen = "", True
            return True
        consumer = next((str(item["metadata"]["consumer"]) for item in error.details if item.get("metadata", {}).get("consumer")), "")
        if self.project and not self._quota_project and (
            consumer.rpartition("/")[2] in GCLOUD_PROJECTS or "requires a quota project" in error.message
        ):  # fmt: skip
            self._quota_project, self._quota_project_chosen = self.project, True
            return True
        return False

    def _enabled_meanwhile(self, error: ApiDisabled) -> float:
        """Until when a service that says it is off is worth asking again (monotonic): it may have been switched on just now."""
        if error.service in ("", "serviceusage.googleapis.com") or not self.project:
            return -1.0
        try:
            state = self.call("serviceusage.services.get", name=f"projects/{self.project}/services/{error.service}", retry=False)
        except GcpError:
            return -1.0
        if state.get("state") != "ENABLED":
            return -1.0
        self.report(f"{error.service} is switched on, but does not answer yet")
        return time.monotonic() + PROPAGATION

    # -- operations -------------------------------------------------------------------------------------------------------------

    def wait(self, operation: dict, method: str = "", *, timeout: int | None = None, what: str = "", **parameters) -> dict:
        """Wait until an operation is done, and return it in its last state.

        `method` is the service's operations.get; compute's and container's operations need none. `what` names it in progress and errors.
        A network that is cut, a busy service and an expired token are lived through. Raises OperationFailed and OperationTimeout.
        """
        method, parameters = self._poll(operation, method, parameters)
        what = what or operation.get("operationType") or "operation"
        started = time.monotonic()
        deadline = started + (self.timeout if timeout is None else timeout)
        pause, said, said_at = POLL_FIRST, "", started
        while not _done(operation):
            now = time.monotonic()
            if now >= deadline:
                late = OperationTimeout(
                    f"{what}: still {_progress(operation)} after {now - started:.0f} s (operation {operation.get('name', '')}).",
                    "it goes on without this run; run again later to continue, or raise the timeout",
                )
                late.operation = operation
                raise late
            line = _progress(operation)
            if now - started >= REPORT_FROM and (line != said or now - said_at >= REPORT_EVERY):
                self.report(f"{what}: {line}, {now - started:.0f} s")
                said, said_at = line, now
            time.sleep(min(pause, max(deadline - now, 0.01)))
            pause = min(pause * 1.5, POLL_LAST)
            try:
                operation = self.call(method, retry=True, **parameters)
            except Unreachable as error:
                self.report(f"{what}: {error.message} Trying again")
            except TokenExpired as error:
                raise TokenExpired(
                    f"{what} goes on without this run (operation {operation.get('name', '')}). {error.message}",
                    error.remedy,
                    status=error.status,
                    code=error.code,
                ) from error
        failure = operation_error(operation, self.project)
        if failure:
            name = operation.get("name", "")
            raise OperationFailed(f"{what} failed: {failure.message} (operation {name})", failure, operation)
        if said:
            self.report(f"{what}: done, {time.monotonic() - started:.0f} s")
        return operation

    def _poll(self, operation: dict, method: str, parameters: dict) -> tuple[str, dict]:
        """The method and the parameters that ask for an operation."""
        name = operation.get("name", "")
        if operation.get("kind") == "compute#operation":
            project = _after(operation.get("selfLink", ""), "projects") or self.project
            for scope, kind in (("zone", "zoneOperations"), ("region", "regionOperations")):
                if operation.get(scope):
                    place = {scope: operation[scope].rpartition("/")[2]}
                    return f"compute.{kind}.get", {"project": project, **place, "operation": name, **parameters}
            return "compute.globalOperations.get", {"project": project, "operation": name, **parameters}
        if "status" in operation and "done" not in operation:
            link = operation.get("selfLink", "")
            project = _after(link, "projects") or self.project
            location = operation.get("location") or operation.get("zone") or _after(link, "locations") or _after(link, "zones")
            full = name if "/" in name else f"projects/{project}/locations/{location}/operations/{name}"
            return method or "container.projects.locations.operations.get", {"name": full, **parameters}
        if not method and not operation.get("done"):
            raise TypeError(f"operation {name}: which method asks for it?")
        return method, {"name": name, **parameters}


# -- modules --------------------------------------------------------------------------------------------------------------------


def argument_spec() -> dict:
    """What every module takes; documented in the fragment mlops.platform.gcp."""
    return {
        "project": {"type": "str", "required": True},
        "credentials_file": {"type": "path"},
        "impersonate": {"type": "str"},
        "access_token": {"type": "str", "no_log": True},
        "endpoint": {"type": "str"},
        "timeout": {"type": "int", "default": 1800},
    }


def connect(module) -> Gcp:
    """The client that a module's parameters describe."""
    missing = [name for name in ("google.auth", "googleapiclient", "requests") if not _importable(name)]
    if missing:
        from ansible.module_utils.basic import missing_required_lib

        module.fail_json(
            msg=missing_required_lib("google-auth, google-api-python-client and requests")
            + " Remedy: install the collection's requirements.txt for that Python, or set ansible_python_interpreter to one that has them."
        )
    names = ("project", "credentials_file", "impersonate", "access_token", "endpoint", "timeout")
    try:
        return Gcp(**{name: module.params[name] for name in names if module.params.get(name) is not None}, report=_reporter())
    except GcpError as error:
        fail(module, error)


def fail(module, error: GcpError, **more) -> None:
    """End a module with an error."""
    about = {"status": error.status, "reason": error.reason, "remedy": error.remedy}
    cause = getattr(error, "cause", error)
    for name in ("permission", "principal", "service", "metric", "limit", "usage", "region"):
        if getattr(cause, name, None) not in (None, ""):
            about[name] = getattr(cause, name)
    module.fail_json(msg=str(error), **{**about, **more})


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def _reporter() -> Callable[[str], None] | None:
    """Appends progress to the file that the action plugin reads, if one is named in the environment."""
    path = os.environ.get("MLOPS_PLATFORM_PROGRESS")
    if not path or not os.access(path, os.W_OK):
        return None

    def report(line: str) -> None:
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    return report


# -- credentials ----------------------------------------------------------------------------------------------------------------


def _check_endpoint(endpoint: str, explicit: str) -> None:
    """A token goes to Google, or to a service that was given credentials of its own; never unencrypted over a network."""
    if not endpoint:
        return
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise BadRequest(
            f"endpoint: {endpoint!r} is not a URL.", "write one such as http://127.0.0.1:31390, or leave it out for Google Cloud"
        )
    if url.scheme == "http" and not _is_loopback(endpoint):
        raise BadRequest(f"endpoint: {endpoint!r} would get the access token unencrypted.", "use https, or an address on loopback")
    if not explicit:
        raise TokenExpired(
            f"endpoint is {endpoint}, and no credentials are given for it; the application default credentials are for Google only.",
            "set credentials_file (platform_gcp_credentials_file) to what that service issued",
        )


def _session():
    """A session that asks loopback without any proxy of the environment, and never takes a password from a .netrc file."""
    import requests

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, request, *args, **kwargs):
            if _is_loopback(request.url):
                kwargs["proxies"] = {}
            return super().send(request, *args, **kwargs)

    session = requests.Session()
    session.auth = lambda request: request
    for prefix in ("http://", "https://"):
        session.mount(prefix, Adapter(pool_maxsize=16))
    return session


def _credentials(path: str, access_token: str) -> tuple:
    """(credentials, whether they can be refreshed, whether they are a person's). Raises TokenExpired where there are none."""
    if access_token:
        from google.oauth2.credentials import Credentials

        return Credentials(access_token), False, False
    if path:
        return _from_file(os.path.expanduser(path), "credentials_file")
    path = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    if path:
        return _from_file(os.path.expanduser(path), "GOOGLE_APPLICATION_CREDENTIALS")
    # google.auth.default() would find this file too, but runs gcloud as well, which takes a second
    directory = os.environ.get("CLOUDSDK_CONFIG") or os.path.expanduser("~/.config/gcloud")
    path = os.path.join(directory, "application_default_credentials.json")
    if os.path.exists(path):
        return _from_file(path, "application default credentials")
    return _of_machine()


def _of_machine() -> tuple:
    """Credentials of the virtual machine, container or build that this runs in."""
    import google.auth
    from google.auth import exceptions

    try:
        credentials, _project = google.auth.default(scopes=SCOPES)
    except exceptions.DefaultCredentialsError as error:
        raise TokenExpired(
            "There are no Google credentials: no credentials_file, no application default credentials, and no metadata server.",
            "run `gcloud auth application-default login`, or set credentials_file (platform_gcp_credentials_file)",
        ) from error
    return credentials, True, False


def _from_file(path: str, what: str) -> tuple:
    remedy = f"set {what} to a key of a service account, or to what `gcloud auth application-default login` writes"
    try:
        with open(path, encoding="utf-8") as file:
            info = json.load(file)
    except OSError as error:
        raise TokenExpired(f"{what}: {path} cannot be read ({error.strerror}).", remedy) from error
    except ValueError as error:
        raise TokenExpired(f"{what}: {path} is not JSON.", remedy) from error
    if not isinstance(info, dict) or "type" not in info:
        kind = "the description of an OAuth client" if isinstance(info, dict) and {"web", "installed"} & set(info) else "no credentials"
        raise TokenExpired(f"{what}: {path} holds {kind}.", remedy)
    try:
        if info["type"] == "service_account":
            from google.oauth2.service_account import Credentials

            return Credentials.from_service_account_info(info, scopes=SCOPES), True, False
        if info["type"] == "authorized_user":
            from google.oauth2.credentials import Credentials

            token_uri = info.get("token_uri", "https://oauth2.googleapis.com/token")  # from_authorized_user_info would take no other
            keys = ("client_id", "client_secret", "refresh_token")
            more = {name: info[name] for name in ("quota_project_id", "account") if info.get(name)}
            return Credentials(None, token_uri=token_uri, **{name: info[name] for name in keys}, **more), True, True
        import google.auth

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            credentials, _project = google.auth.load_credentials_from_dict(info, scopes=SCOPES)
    except Exception as error:  # what google-auth raises for a broken file is of many kinds
        raise TokenExpired(f"{what}: {path} is not usable as {info['type']} credentials ({type(error).__name__}).", remedy) from error
    return credentials, True, info["type"] == "external_account_authorized_user"


def _email_of(credentials: object) -> str:
    """Whose credentials they are, where they tell."""
    emails = (getattr(credentials, name, None) for name in ("service_account_email", "account"))
    return next((email for email in emails if isinstance(email, str) and "@" in email), "")


def _member(email: str) -> str:
    """The caller as a member of IAM, for commands to copy."""
    return f"{'serviceAccount' if email.endswith('gserviceaccount.com') else 'user'}:{email}" if "@" in email else "MEMBER"


def _refused_token(error: object, principal: str, refreshable: bool = True, impersonator: str = "") -> GcpError:
    """What it means that no token was issued, or that one was not accepted."""
    text = _cause(error) if isinstance(error, Exception) else str(error)
    if isinstance(error, Exception) and len(error.args) > 1 and isinstance(error.args[1], str):  # what the issuer answered
        with contextlib.suppress(ValueError):
            answer = error_of(403, json.loads(error.args[1])).message
            text += f" ({answer})" if answer and answer not in text else ""
    if "getAccessToken" in text or "generateAccessToken" in text or "impersonated credentials" in text:
        role = "roles/iam.serviceAccountTokenCreator"
        command = f"gcloud iam service-accounts add-iam-policy-binding {principal} --member={_member(impersonator)} --role={role}"
        denied = Denied(
            f"{impersonator or 'The caller'} cannot act as {principal}: {text}.",
            "see that this service account exists, that iamcredentials.googleapis.com is switched on in its project, "
            f"and that the caller may: `{command}`",
            status=403,
            reason="IMPERSONATION",
        )
        denied.permission, denied.principal = "iam.serviceAccounts.getAccessToken", impersonator
        return denied
    principal = impersonator or principal
    if not refreshable:
        remedy = "give a new access token (`gcloud auth print-access-token`), or better credentials_file: those renew themselves"
    elif "short-lived token" in text or "reasonable timeframe" in text:
        remedy = "set the clock of this machine"
    elif principal.endswith("gserviceaccount.com"):
        remedy = "see that the service account and this key of it still exist, and set credentials_file to a valid key"
    else:
        remedy = "run `gcloud auth application-default login` again, or set credentials_file (platform_gcp_credentials_file)"
    return TokenExpired(f"The credentials of {principal} are not accepted: {text}.", remedy, status=401, code="UNAUTHENTICATED")


# -- errors ---------------------------------------------------------------------------------------------------------------------


def error_of(status: int, answer: object, *, method: str = "", project: str = "") -> GcpError:
    """The error that an answer means. `answer` is the parsed body, in any of the forms that Google's services use."""
    body = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(body, dict):
        body = {"message": body if isinstance(body, str) else answer if isinstance(answer, str) else ""}
    details = [item for item in body.get("details") or [] if isinstance(item, dict)]
    old_style = [item for item in body.get("errors") or [] if isinstance(item, dict)]
    info = next((item for item in details if item.get("reason")), {})
    code = body.get("status") if isinstance(body.get("status"), str) else ""
    reason = info.get("reason") or next((item["reason"] for item in old_style if item.get("reason")), "") or code
    text = _sentence(str(body.get("message") or "no explanation"), details)
    message = f"{method}: {text} ({status}{' ' + reason if reason else ''})" if method else text
    common = {"status": status, "code": code or "", "reason": reason, "details": details}
    return _classified(status, reason, text, message, details, info, common, project, method)


def _classified(status, reason, text, message, details, info, common, project, method) -> GcpError:
    metadata = info.get("metadata") or {}
    low = text.lower()
    if status == 401:
        return TokenExpired(message, **common)
    if reason in ("SERVICE_DISABLED", "accessNotConfigured"):
        found = re.search(r"[a-z0-9-]+\.googleapis\.com", text)
        service = metadata.get("service") or (found[0] if found else f"{method.partition('.')[0]}.googleapis.com")
        consumer = str(metadata.get("consumer", "")).rpartition("/")[2] or project
        command = f"gcloud services enable {service} --project {consumer}"
        error = ApiDisabled(message, f"`{command}`, or the role gcp_apis with gcp_apis_more: [{service}]", **common)
        error.service = service
        return error
    if (
        "billing" in reason.lower()
        or _violated(details, "billing")
        or re.search(r"billing (account|must|is|has|to be)|enable billing", low)
    ):
        remedy = f"link a billing account: `gcloud billing projects link {project or 'PROJECT'} --billing-account ACCOUNT`"
        return BillingDisabled(message, remedy, **common)
    if _is_quota(status, reason, low, details):
        return _quota(text, message, details, metadata, common, project)
    if status == 403:
        return _denied_of(reason, text, message, metadata, common)
    if status == 404:
        return NotFound(message, "check the name, the location and the project, or create it first", **common)
    if status in (409, 412):
        if reason in ("ALREADY_EXISTS", "alreadyExists", "duplicate") or common["code"] == "ALREADY_EXISTS":
            return AlreadyExists(message, "choose another name, or remove what is there", **common)
        if reason in ("conditionNotMet", "ABORTED") or status == 409:
            return Conflict(message, "somebody else changes it at the same time; run again", **common)
    if status >= 500:
        return Unreachable(message, "the service has a fault of its own; run again later (https://status.cloud.google.com)", **common)
    if "constraints/" in text or reason == "ORG_POLICY":
        return BadRequest(
            message, "a policy of the organisation forbids it; ask its administrator for an exception, or choose other settings", **common
        )
    if status in (400, 412):
        return BadRequest(message, **common)
    return GcpError(message, **common)


def _is_quota(status: int, reason: str, low: str, details: list) -> bool:
    if status == 429 or reason in ("quotaExceeded", "QUOTA_EXCEEDED", "RESOURCE_EXHAUSTED", "rateLimitExceeded", "userRateLimitExceeded"):
        return True
    if any("QuotaFailure" in str(item.get("@type")) for item in details):
        return True
    return status in (400, 403) and re.search(r"insufficient (\w+ )?quota|quota '[^']+' exceeded|quota exceeded", low) is not None


def _quota(text: str, message: str, details: list, metadata: dict, common: dict, project: str) -> QuotaExceeded:
    """Metric, limit, usage and region, wherever the answer has them."""
    metric, region = metadata.get("quota_metric", ""), ""
    limit, usage = _number(metadata.get("quota_limit_value")), None
    for item in details:
        metric = metric or item.get("metricName", "")
        limit = _number(item.get("limit")) if limit is None else limit
        region = region or (item.get("dimensions") or {}).get("region", "")
        for violation in item.get("violations") or []:
            metric = metric or violation.get("quotaMetric", "") or violation.get("subject", "")
            limit = _number(violation.get("quotaValue")) if limit is None else limit
            region = region or (violation.get("quotaDimensions") or {}).get("region", "")
    named = (
        re.search(r"[Qq]uota '([^']+)'", text) or re.search(r"resource \"([^\"]+)\"", text) or re.search(r"quota metric '([^']+)'", text)
    )
    if named and not (metric and "quota metric" in named[0]):
        metric = named[1]
    limited = re.search(r"Limit: ([\d.]*\d)", text) or re.search(r"has a quota of '([\d.]+)'", text)
    limit = _number(limited[1]) if limited and limit is None else limit
    available = re.search(r"with '([\d.]+)' available", text)
    if available and limit is not None:
        usage = limit - _number(available[1])
    used = re.search(r"[Uu]sage: ([\d.]*\d)", text)
    usage = _number(used[1]) if used else usage
    place = re.search(r"in region ([a-z]+-[a-z]+\d+)", text)
    region = region or (place[1] if place else "")
    parts = [
        f"metric {metric}" if metric else "",
        f"limit {limit:g}" if limit is not None else "",
        f"used {usage:g}" if usage is not None else "",
    ]
    about = ", ".join(part for part in [*parts, f"region {region}" if region else ""] if part)
    if common["status"] == 429 or "ateLimit" in common["reason"] or "RATE_LIMIT" in common["reason"]:
        remedy = "wait a minute and run again; other programs may use up the project's rate"
    else:
        page = f"https://console.cloud.google.com/iam-admin/quotas?project={project or 'PROJECT'}"
        remedy = f"ask for more at {page}, or use less, or another region"
    error = QuotaExceeded(f"{message} [{about}]" if about else message, remedy, **common)
    error.metric, error.limit, error.usage, error.region = metric, limit, usage, region
    return error


def _denied_of(reason: str, text: str, message: str, metadata: dict, common: dict) -> Denied:
    """A refusal; without a remedy where the caller's name makes it, see _denied."""
    if reason == "SECURITY_POLICY_VIOLATED" or "vpcServiceControls" in text:
        return Denied(message, "a VPC Service Controls perimeter forbids it; ask its administrator to let this caller in", **common)
    if reason in ("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficientPermissions") and "scope" in text.lower():
        return Denied(message, "the token lacks the scope cloud-platform: log in again, or give the virtual machine that scope", **common)
    if reason == "SERVICE_CONFIG_NOT_FOUND_OR_PERMISSION_DENIED":
        services = metadata.get("services") or "the service"
        return Denied(message, f"see how {services} is spelled: `gcloud services list --available`", **common)
    error = Denied(message, **common)
    named = (name for name in PERMISSION.findall(text) if not name.endswith(("googleapis.com", "cloud.goog", "google.com")))
    error.permission = "serviceusage.services.use" if reason == "USER_PROJECT_DENIED" else metadata.get("permission") or next(named, "")
    return error


def _denied(error: Denied, principal: str, project: str) -> Denied:
    """The same refusal with whom it met and what to grant."""
    service = error.message.partition(".")[0]
    wanted = error.permission or {"cloudresourcemanager": "resourcemanager."}.get(service, f"{service}.")
    role = next((role for prefix, role in ROLES.items() if wanted.startswith(prefix)), "")
    lacking = f" lacks {error.permission}" if error.permission else " may not do that"
    remedy = "see that the project exists and is spelled right; then let somebody who administers it grant "
    if role:
        remedy += f"`gcloud projects add-iam-policy-binding {project or 'PROJECT'} --member={_member(principal)} --role={role}`"
    else:
        remedy += f"a role with {error.permission or 'the permission'}"
    named = Denied(
        f"{error.message}: {principal}{lacking}.", remedy, status=error.status, code=error.code, reason=error.reason, details=error.details
    )
    named.permission, named.principal = error.permission, principal
    return named


def operation_error(operation: dict, project: str = "") -> GcpError | None:
    """The error that a finished operation ended with, or None."""
    error = operation.get("error")
    if not error and operation.get("statusMessage") and "done" not in operation and operation.get("kind") != "compute#operation":
        error = {"message": operation["statusMessage"]}
    if not error:
        return None
    if error.get("errors"):  # compute
        first = error["errors"][0]
        text = "; ".join(str(item.get("message") or item.get("code")) for item in error["errors"])
        details = [next(iter(_values(item)), {}) for item in first.get("errorDetails") or []]
        code = str(first.get("code") or "")
        status = operation.get("httpErrorStatusCode") or (403 if "QUOTA" in code else 400)
        body = {"message": text, "errors": [{"reason": code}], "details": details}
        return error_of(status, {"error": body}, project=project)
    number = error.get("code")
    status, name = RPC.get(number, (400, "")) if isinstance(number, int) else (400, "")
    return error_of(
        status, {"error": {"message": error.get("message"), "status": name, "details": error.get("details") or []}}, project=project
    )


# Codes of google.rpc.Status: HTTP's status and the name
RPC = {
    1: (499, "CANCELLED"), 2: (500, "UNKNOWN"), 3: (400, "INVALID_ARGUMENT"), 4: (504, "DEADLINE_EXCEEDED"), 5: (404, "NOT_FOUND"),
    6: (409, "ALREADY_EXISTS"), 7: (403, "PERMISSION_DENIED"), 8: (429, "RESOURCE_EXHAUSTED"), 9: (400, "FAILED_PRECONDITION"),
    10: (409, "ABORTED"), 11: (400, "OUT_OF_RANGE"), 12: (501, "UNIMPLEMENTED"), 13: (500, "INTERNAL"), 14: (503, "UNAVAILABLE"),
    15: (500, "DATA_LOSS"), 16: (401, "UNAUTHENTICATED"),
}  # fmt: skip


def _sentence(text: str, details: list) -> str:
    """Google's message on one line, with the fields that a bad request names."""
    text = " ".join(re.sub(r"<[^>]+>", " ", text).split())[:1000]
    fields = [f"{item.get('field')}: {item.get('description')}" for detail in details for item in detail.get("fieldViolations") or []]
    missing = [field for field in fields if field.partition(": ")[2] not in text]
    return text + (" [" + "; ".join(missing) + "]" if missing else "")


def _violated(details: list, what: str) -> bool:
    return any(what in str(violation.get("type", "")) for item in details for violation in item.get("violations") or [])


def _limited(error: GcpError) -> bool:
    """Whether a call was turned away only because there were too many in a short time."""
    if isinstance(error, OperationFailed) or not isinstance(error, QuotaExceeded):
        return False
    return error.status == 429 or error.reason in ("rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED")


def _retry_after(response) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), 60.0) if value.isdigit() else 0.0


def _parsed(response) -> dict | str:
    if not response.content:
        return {}
    try:
        return response.json()
    except ValueError:
        return response.text


def _done(operation: dict) -> bool:
    return operation.get("status") == "DONE" if "done" not in operation and "status" in operation else bool(operation.get("done"))


def _progress(operation: dict) -> str:
    """How far an operation is, in a word or two."""
    metadata = operation.get("metadata") or {}
    state = operation.get("status") or metadata.get("state") or "RUNNING"
    detail = operation.get("detail") or metadata.get("statusDetail") or metadata.get("statusMessage") or ""
    share = operation.get("progress") if isinstance(operation.get("progress"), int) else metadata.get("progressPercentage")
    return f"{state.lower()}{f' {share} %' if share else ''}{f' ({detail})' if detail else ''}"


def _after(path: str, part: str) -> str:
    """The segment of a path that follows `part`."""
    segments = path.split("/")
    return segments[segments.index(part) + 1] if part in segments[:-1] else ""


def _values(item: object):
    return [value for value in item.values() if isinstance(value, dict)] if isinstance(item, dict) else []


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _query_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _cause(error: BaseException) -> str:
    """The innermost words of a chain of network errors, without the addresses of Python objects."""
    inner = error
    while True:
        args = inner.args[0] if inner.args else None
        candidates = (getattr(args, "reason", None), getattr(inner, "reason", None), getattr(inner, "original_error", None), args)
        following = next((item for item in candidates if isinstance(item, BaseException)), None)
        if following is None:
            break
        inner = following
    text = str(inner.args[0] if inner.args and isinstance(inner.args[0], str) else inner) or traceback.format_exception_only(inner)[0]
    return re.sub(r"<[^<>]*object at 0x[0-9a-f]+>:? ?", "", " ".join(text.split()))[:300].rstrip(".")
