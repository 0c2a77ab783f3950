"""The client for Google Cloud, against a small server that answers what a test tells it to."""

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, descriptions

CUT = object()
GET_SERVICE = "serviceusage.services.get"
SERVICE = {"name": "projects/test-project/services/compute.googleapis.com"}
CREATE = "container.projects.locations.clusters.create"
PARENT = {"parent": "projects/test-project/locations/europe-west4"}


class Server:
    """Answers in the order in which they were told; the last one again and again."""

    def __init__(self):
        self.answers, self.requests = [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                url = urlsplit(self.path)
                outer.requests.append((self.command, url.path, parse_qs(url.query), dict(self.headers.items()), body))
                if url.path == "/token":
                    status, answer, headers = 200, {"access_token": f"token-{outer.tokens()}", "expires_in": 3600}, {}
                    if outer.token_refused:
                        status, answer = 400, outer.token_refused
                else:
                    told = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                    if told is CUT:
                        self.close_connection = True
                        self.connection.shutdown(socket.SHUT_RDWR)
                        return
                    status, answer, headers = (*told, {})[:3]
                data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = answer

        self.token_refused = None
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def tokens(self):
        return sum(path == "/token" for _, path, *_ in self.requests)

    def calls(self):
        return [request for request in self.requests if request[1] != "/token"]

    def seen(self):
        return [(method, path) for method, path, *_ in self.calls()]


@pytest.fixture(scope="module")
def key():
    return (
        rsa.generate_private_key(65537, 2048)
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_QUOTA_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(api, "BACKOFF", (0.01,) * 6)
    monkeypatch.setattr(api, "POLL_FIRST", 0.01)
    monkeypatch.setattr(api, "POLL_LAST", 0.02)
    monkeypatch.setattr(api, "REPORT_FROM", 0)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def account(server, key, tmp_path):
    file = tmp_path / "account.json"
    file.write_text(json.dumps({
        "type": "service_account", "client_email": "robot@test-project.iam.gserviceaccount.com", "private_key_id": "1", "private_key": key,
        "token_uri": f"{server.endpoint}/token", "project_id": "test-project", "client_id": "1",
    }))  # fmt: skip
    return str(file)


@pytest.fixture
def person(server, tmp_path):
    file = tmp_path / "person.json"
    info = {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": "s",
        "refresh_token": "r",
        "token_uri": f"{server.endpoint}/token",
    }
    file.write_text(json.dumps(info))
    return str(file)


@pytest.fixture
def gcp(server, account):
    return api.Gcp("test-project", credentials_file=account, endpoint=server.endpoint)


def refusal(code, message, status, *details, errors=()):
    return code, {"error": {"code": code, "message": message, "status": status, "details": list(details), "errors": list(errors)}}


def info(reason, **metadata):
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com", "metadata": metadata}


def error_of(gcp, method=CREATE, body=None, **parameters):
    with pytest.raises(api.GcpError) as caught:
        gcp.call(method, body or {"cluster": {"name": "a"}}, **(parameters or PARENT))
    return caught.value


# -- calls ----------------------------------------------------------------------------------------------------------------------


def test_a_call_is_what_the_description_says(server, gcp):
    server.answers = [(200, {"ok": True})]
    assert gcp.call(CREATE, {"cluster": {"name": "a"}}, **PARENT) == {"ok": True}
    method, path, _, headers, body = server.calls()[0]
    assert (method, path) == ("POST", "/container/v1/projects/test-project/locations/europe-west4/clusters")
    assert json.loads(body) == {"cluster": {"name": "a"}}
    assert headers["Authorization"] == "Bearer token-1"
    assert "x-goog-user-project" not in headers


def test_paths_and_queries_are_encoded(server, gcp):
    server.answers = [(200, {})]
    gcp.call("serviceusage.services.batchGet", parent="projects/p", names=["a", "b/c"])
    gcp.call("iam.projects.serviceAccounts.setIamPolicy", {"policy": {}}, resource="projects/-/serviceAccounts/a@b")
    gcp.call("compute.acceleratorTypes.aggregatedList", filter="name:a b", includeAllScopes=True, maxResults=None)
    assert server.calls()[0][2] == {"names": ["a", "b/c"]}
    assert server.calls()[1][1] == "/iam/v1/projects/-/serviceAccounts/a%40b:setIamPolicy"
    assert server.calls()[2][1:3] == (
        "/compute/compute/v1/projects/test-project/aggregated/acceleratorTypes",
        {"filter": ["name:a b"], "includeAllScopes": ["true"]},
    )


def test_the_host_is_googles_without_an_endpoint(server):
    gcp = api.Gcp("test-project", access_token="t")
    url = gcp._url("compute.zones.list", descriptions.method("compute.zones.list"), {})
    assert url == "https://compute.googleapis.com/compute/v1/projects/test-project/zones"


def test_wrong_parameters_are_found_before_anything_is_sent(server, gcp):
    with pytest.raises(TypeError, match="nmae.*missing parameters \\['name'\\]"):
        gcp.call(GET_SERVICE, nmae="x")
    assert server.requests == []


def test_pages_are_joined(server, gcp):
    server.answers = [(200, {"services": [1], "nextPageToken": "n"}), (200, {"services": [2, 3]})]
    assert gcp.pages("serviceusage.services.list", "services", parent="projects/p") == [1, 2, 3]
    assert server.calls()[1][2] == {"pageToken": ["n"]}


def test_pages_of_aggregated_lists_are_joined(server, gcp):
    server.answers = [
        (
            200,
            {"items": {"zones/a": {"acceleratorTypes": [1]}, "zones/b": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}}, "nextPageToken": "n"},
        ),
        (200, {"items": {"zones/a": {"acceleratorTypes": [2]}, "zones/c": {"acceleratorTypes": [3]}}}),
    ]
    found = gcp.pages("compute.acceleratorTypes.aggregatedList", "items")
    assert {zone: value.get("acceleratorTypes") for zone, value in found.items()} == {"zones/a": [1, 2], "zones/b": None, "zones/c": [3]}


def test_no_items_are_an_empty_list(server, gcp):
    server.answers = [(200, {})]
    assert gcp.pages("serviceusage.services.list", "services", parent="projects/p") == []


# -- trying again ---------------------------------------------------------------------------------------------------------------


def test_a_read_survives_a_cut_connection_and_a_busy_service(server, gcp):
    server.answers = [CUT, (503, {}), (502, "<html>Bad gateway</html>"), CUT, (200, {"state": "ENABLED"})]
    assert gcp.call(GET_SERVICE, **SERVICE) == {"state": "ENABLED"}
    assert len(server.calls()) == 5


@pytest.mark.parametrize("fault", [CUT, (503, {}), (500, {})])
def test_a_write_that_may_have_arrived_is_not_repeated(server, gcp, fault):
    server.answers = [fault, (200, {})]
    error = error_of(gcp)
    assert isinstance(error, api.Unreachable)
    assert len(server.calls()) == 1
    if fault is CUT:
        assert "not known whether the call took effect" in str(error)


def test_a_write_is_repeated_on_demand(server, gcp):
    server.answers = [CUT, (503, {}), (200, {"ok": 1})]
    assert gcp.call(CREATE, {}, retry=True, **PARENT) == {"ok": 1}


def test_a_rate_limit_is_waited_for_even_by_writes(server, gcp):
    limit = refusal(429, "Quota exceeded for quota metric 'Mutate requests'", "RESOURCE_EXHAUSTED", info("RATE_LIMIT_EXCEEDED"))
    old = refusal(403, "Rate Limit Exceeded", "", errors=[{"reason": "rateLimitExceeded"}])
    server.answers = [limit, old, (200, {"ok": 1})]
    assert gcp.call(CREATE, {}, **PARENT) == {"ok": 1}


def test_retry_after_is_honoured(server, gcp):
    server.answers = [(429, {}, {"Retry-After": "1"}), (200, {})]
    started = time.monotonic()
    gcp.call(GET_SERVICE, **SERVICE)
    assert time.monotonic() - started >= 1


def test_patience_ends(server, gcp):
    server.answers = [(503, {"error": {"code": 503, "message": "The service is currently unavailable.", "status": "UNAVAILABLE"}})]
    with pytest.raises(api.Unreachable, match="currently unavailable.*503 UNAVAILABLE.*Remedy"):
        gcp.call(GET_SERVICE, **SERVICE)
    assert len(server.calls()) == len(api.BACKOFF) + 1


def test_nothing_listening_is_reported_at_once(account, monkeypatch):
    slept = []
    monkeypatch.setattr(api.time, "sleep", slept.append)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(api.Unreachable, match=f"127.0.0.1:{port} does not answer: .*refused.*Remedy: start what should listen there"):
        api.Gcp("test-project", access_token="t", endpoint=f"http://127.0.0.1:{port}").call(GET_SERVICE, **SERVICE)
    assert len(slept) == api.FIRST_CONTACT - 1


# -- tokens and credentials -----------------------------------------------------------------------------------------------------


def test_an_expired_token_is_renewed_and_the_write_repeated(server, gcp):
    server.answers = [(200, {}), refusal(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED"), (200, {"ok": 1})]
    gcp.call(GET_SERVICE, **SERVICE)
    assert gcp.call(CREATE, {}, **PARENT) == {"ok": 1}
    assert [request[3]["Authorization"] for request in server.calls()] == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


def test_one_token_for_many_calls(server, gcp):
    server.answers = [(200, {})]
    for _ in range(3):
        gcp.call(GET_SERVICE, **SERVICE)
    assert server.tokens() == 1


def test_an_access_token_that_has_expired(server):
    server.answers = [refusal(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED")]
    gcp = api.Gcp("test-project", access_token="very-secret", endpoint=server.endpoint)
    with pytest.raises(api.TokenExpired, match="invalid authentication.*gcloud auth print-access-token") as caught:
        gcp.call(GET_SERVICE, **SERVICE)
    assert "very-secret" not in str(caught.value)
    assert len(server.calls()) == 1


def test_a_key_that_is_no_longer_accepted(server, gcp):
    server.token_refused = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    with pytest.raises(api.TokenExpired, match="robot@test-project.*Invalid JWT Signature.*this key of it still exist"):
        gcp.call(GET_SERVICE, **SERVICE)


def test_a_wrong_clock(server, gcp):
    server.token_refused = {"error": "invalid_grant", "error_description": "Invalid JWT: Token must be a short-lived token (60 minutes)"}
    with pytest.raises(api.TokenExpired, match="set the clock"):
        gcp.call(GET_SERVICE, **SERVICE)


def test_a_person_who_must_log_in_again(server, person):
    server.token_refused = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
    with pytest.raises(api.TokenExpired, match="gcloud auth application-default login"):
        api.Gcp("test-project", credentials_file=person, endpoint=server.endpoint).call(GET_SERVICE, **SERVICE)


def test_no_credentials_at_all(server, monkeypatch, tmp_path):
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(api.TokenExpired, match="no Google credentials.*gcloud auth application-default login.*credentials_file"):
        api.Gcp("test-project")


def test_application_default_credentials(server, person, monkeypatch, tmp_path):
    (tmp_path / "application_default_credentials.json").write_text(Path(person).read_text())
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    assert api.Gcp("test-project").token() == "token-1"


def test_application_default_credentials_go_to_google_only(server, person, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", person)
    with pytest.raises(api.TokenExpired, match="no credentials are given for it"):
        api.Gcp("test-project", endpoint=server.endpoint)
    assert server.requests == []


@pytest.mark.parametrize("endpoint, what", [("127.0.0.1:31390", "is not a URL"), ("http://192.0.2.1:80", "unencrypted")])
def test_endpoints_that_are_refused(endpoint, what):
    with pytest.raises(api.BadRequest, match=what):
        api.Gcp("test-project", access_token="t", endpoint=endpoint)


@pytest.mark.parametrize(
    "content, what",
    [
        (None, "No such file"),
        ("not json", "is not JSON"),
        ('{"installed": {"client_id": "x"}}', "description of an OAuth client"),
        ('{"type": "service_account", "client_email": "a@b"}', "not usable as service_account"),
        ('{"type": "unheard-of"}', "not usable as unheard-of"),
    ],
)
def test_credentials_files_that_are_none(tmp_path, content, what):
    file = tmp_path / "file.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(api.TokenExpired, match=what):
        api.Gcp("test-project", credentials_file=str(file))


def test_impersonation(server, account):
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    server.answers = [(200, {"accessToken": "borrowed", "expireTime": soon}), (200, {})]
    gcp = api.Gcp("test-project", credentials_file=account, impersonate="other@p.iam.gserviceaccount.com", endpoint=server.endpoint)
    gcp.call(GET_SERVICE, **SERVICE)
    assert gcp.principal == "other@p.iam.gserviceaccount.com"
    assert server.calls()[0][1].endswith("/serviceAccounts/other@p.iam.gserviceaccount.com:generateAccessToken")
    assert server.calls()[1][3]["Authorization"] == "Bearer borrowed"


def test_impersonation_that_is_refused(server, account):
    server.answers = [refusal(403, "Permission 'iam.serviceAccounts.getAccessToken' denied", "PERMISSION_DENIED")]
    gcp = api.Gcp("test-project", credentials_file=account, impersonate="other@p.iam.gserviceaccount.com", endpoint=server.endpoint)
    with pytest.raises(api.Denied, match="robot@test.* cannot act as other@p.*getAccessToken' denied.*serviceAccountTokenCreator"):
        gcp.call(GET_SERVICE, **SERVICE)


def test_a_person_who_impersonates_is_charged_to_the_project(server, person):
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    server.answers = [(200, {"accessToken": "borrowed", "expireTime": soon}), (200, {})]
    gcp = api.Gcp("test-project", credentials_file=person, impersonate="other@p.iam.gserviceaccount.com", endpoint=server.endpoint)
    gcp.call(GET_SERVICE, **SERVICE)
    assert [request[3].get("x-goog-user-project") for request in server.calls()] == ["test-project", None]


# -- who is charged -------------------------------------------------------------------------------------------------------------


def test_a_persons_calls_are_charged_to_the_project(server, person):
    server.answers = [(200, {})]
    api.Gcp("test-project", credentials_file=person, endpoint=server.endpoint).call(GET_SERVICE, **SERVICE)
    assert server.calls()[0][3]["x-goog-user-project"] == "test-project"


def test_a_quota_project_of_the_environment_wins(server, person, monkeypatch):
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "billed-project")
    server.answers = [(200, {})]
    api.Gcp("test-project", credentials_file=person, endpoint=server.endpoint).call(GET_SERVICE, **SERVICE)
    assert server.calls()[0][3]["x-goog-user-project"] == "billed-project"


def test_a_person_who_may_not_charge_the_project(server, person):
    server.answers = [
        refusal(403, "Caller does not have required permission to use project.", "PERMISSION_DENIED", info("USER_PROJECT_DENIED")),
        (200, {"ok": 1}),
    ]
    gcp = api.Gcp("test-project", credentials_file=person, endpoint=server.endpoint)
    assert gcp.call(CREATE, {}, **PARENT) == {"ok": 1}
    assert ["x-goog-user-project" in request[3] for request in server.calls()] == [True, False]
    gcp.call(GET_SERVICE, **SERVICE)
    assert "x-goog-user-project" not in server.calls()[2][3]


def test_a_chosen_quota_project_that_is_refused_is_an_error(server, account, monkeypatch):
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "billed-project")
    server.answers = [refusal(403, "Caller does not have required permission.", "PERMISSION_DENIED", info("USER_PROJECT_DENIED"))]
    error = error_of(api.Gcp("test-project", credentials_file=account, endpoint=server.endpoint))
    assert error.permission == "serviceusage.services.use"
    assert "roles/serviceusage.serviceUsageConsumer" in error.remedy


def test_a_persons_access_token_gets_a_project_when_google_asks_for_one(server):
    server.answers = [
        refusal(403, "The API requires a quota project.", "PERMISSION_DENIED", info("SERVICE_DISABLED", consumer="projects/764086051850")),
        (200, {"ok": 1}),
    ]
    gcp = api.Gcp("test-project", access_token="t", endpoint=server.endpoint)
    assert gcp.call(CREATE, {}, **PARENT) == {"ok": 1}
    assert [request[3].get("x-goog-user-project") for request in server.calls()] == [None, "test-project"]


# -- proxies --------------------------------------------------------------------------------------------------------------------


def test_loopback_is_never_asked_through_a_proxy(server, gcp, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.answers = [(200, {"ok": 1})]
    assert gcp.call(GET_SERVICE, **SERVICE) == {"ok": 1}
    assert server.tokens() == 1


def test_google_is_asked_through_the_proxy(server, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", server.endpoint)
    server.answers = [(403, "not allowed")]
    with pytest.raises(api.Unreachable, match="serviceusage.googleapis.com does not answer.*403.*HTTPS_PROXY"):
        api.Gcp("test-project", access_token="t").call(GET_SERVICE, retry=False, **SERVICE)
    assert [method for method, *_ in server.calls()] == ["CONNECT"]


def test_a_netrc_file_does_not_replace_the_token(server, gcp, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("default login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.answers = [(200, {})]
    gcp.call(GET_SERVICE, **SERVICE)
    assert server.calls()[0][3]["Authorization"] == "Bearer token-1"


# -- errors ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer, permission, role",
    [
        (
            refusal(403, 'Required "container.clusters.create" permission(s) for "projects/test-project".', "PERMISSION_DENIED"),
            "container.clusters.create",
            "roles/container.admin",
        ),
        (
            refusal(403, "Required 'compute.zones.list' permission for 'projects/x'", "", errors=[{"reason": "forbidden"}]),
            "compute.zones.list",
            "roles/compute.admin",
        ),
        (
            refusal(403, "Permission denied.", "PERMISSION_DENIED", info("IAM_PERMISSION_DENIED", permission="iam.serviceAccounts.actAs")),
            "iam.serviceAccounts.actAs",
            "roles/iam.serviceAccountUser",
        ),
        (refusal(403, "The caller does not have permission", "PERMISSION_DENIED"), "", "roles/container.admin"),
    ],
)
def test_a_missing_permission(server, gcp, answer, permission, role):
    server.answers = [answer]
    error = error_of(gcp)
    assert type(error) is api.Denied
    assert (error.permission, error.principal) == (permission, "robot@test-project.iam.gserviceaccount.com")
    assert f"--member=serviceAccount:robot@test-project.iam.gserviceaccount.com --role={role}" in error.remedy
    assert len(server.calls()) == 1


def test_a_service_that_is_off(server, gcp):
    off = refusal(
        403,
        "Kubernetes Engine API has not been used in project 42 before or it is disabled.",
        "PERMISSION_DENIED",
        info("SERVICE_DISABLED", service="container.googleapis.com", consumer="projects/42"),
    )
    server.answers = [off, (200, {"state": "DISABLED"})]
    error = error_of(gcp)
    assert isinstance(error, api.ApiDisabled)
    assert error.service == "container.googleapis.com"
    assert "gcloud services enable container.googleapis.com --project 42" in str(error)


def test_a_service_that_was_just_switched_on_is_waited_for(server, gcp):
    off = refusal(
        403, "container.googleapis.com has not been used", "PERMISSION_DENIED", info("SERVICE_DISABLED", service="container.googleapis.com")
    )
    server.answers = [off, (200, {"state": "ENABLED"}), off, (200, {"ok": 1})]
    assert gcp.call(CREATE, {}, **PARENT) == {"ok": 1}
    assert gcp.progress == ["container.googleapis.com is switched on, but does not answer yet"]


@pytest.mark.parametrize(
    "answer",
    [
        refusal(
            400,
            "Billing account for project '42' is not found. Billing must be enabled for activation of service(s) 'compute.googleapis.com'.",
            "FAILED_PRECONDITION",
            {"@type": "type.googleapis.com/google.rpc.PreconditionFailure", "violations": [{"type": "googleapis.com/billing-enabled"}]},
        ),
        refusal(403, "This API method requires billing to be enabled.", "PERMISSION_DENIED", info("BILLING_DISABLED")),
        refusal(400, "Billing account for project '42' is not open.", "FAILED_PRECONDITION", info("UREQ_PROJECT_BILLING_NOT_OPEN")),
    ],
)
def test_no_billing(server, gcp, answer):
    server.answers = [answer]
    error = error_of(gcp)
    assert isinstance(error, api.BillingDisabled)
    assert "gcloud billing projects link test-project" in error.remedy


@pytest.mark.parametrize(
    "answer, expected",
    [
        (
            refusal(
                403, "Quota 'NVIDIA_L4_GPUS' exceeded.  Limit: 0.0 in region asia-northeast3.", "", errors=[{"reason": "quotaExceeded"}]
            ),
            ("NVIDIA_L4_GPUS", 0, None, "asia-northeast3"),
        ),
        (
            refusal(
                403,
                "Insufficient regional quota to satisfy request: resource \"CPUS\": request requires '24.0' and is short '4.0'. "
                "project has a quota of '24.0' with '20.0' available.",
                "PERMISSION_DENIED",
            ),
            ("CPUS", 24, 4, ""),
        ),
        (
            refusal(
                403,
                "\n\t(1) insufficient project quota to satisfy request: resource \"GPUS_ALL_REGIONS\": request requires '1.0' and is short "
                "'1.0'. project has a quota of '0.0' with '0.0' available.\n\t(2) insufficient regional quota to satisfy request: resource "
                "\"NVIDIA_L4_GPUS\": request requires '1.0'.",
                "PERMISSION_DENIED",
            ),
            ("GPUS_ALL_REGIONS", 0, 0, ""),
        ),
        (
            refusal(
                400,
                "Quota exceeded.",
                "FAILED_PRECONDITION",
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [
                        {"subject": "SUBNETWORKS", "quotaMetric": "compute.googleapis.com/subnetworks", "quotaValue": "100"},
                    ],
                },
            ),
            ("compute.googleapis.com/subnetworks", 100, None, ""),
        ),
    ],
)
def test_a_quota(server, gcp, answer, expected):
    server.answers = [answer]
    error = error_of(gcp)
    assert isinstance(error, api.QuotaExceeded)
    assert (error.metric, error.limit, error.usage, error.region) == expected
    assert f"metric {expected[0]}, limit {expected[1]}" in str(error)
    assert "https://console.cloud.google.com/iam-admin/quotas?project=test-project" in error.remedy
    assert len(server.calls()) == 1


@pytest.mark.parametrize(
    "answer, kind, what",
    [
        (refusal(404, "Not found: projects/x.", "NOT_FOUND"), api.NotFound, "check the name"),
        ((404, "<html><title>Error 404</title>nothing here</html>"), api.NotFound, "nothing here"),
        (refusal(409, "Already exists: projects/x.", "ALREADY_EXISTS"), api.AlreadyExists, "Already exists"),
        (refusal(409, "There were concurrent policy changes.", "ABORTED"), api.Conflict, "run again"),
        (refusal(412, "Precondition Failed", "", errors=[{"reason": "conditionNotMet"}]), api.Conflict, "run again"),
        (refusal(400, "Constraint constraints/iam.x violated.", "FAILED_PRECONDITION"), api.BadRequest, "organisation"),
        (refusal(400, "Cluster is running incompatible operation operation-1.", "FAILED_PRECONDITION"), api.BadRequest, "incompatible"),
        (refusal(403, "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: x", "PERMISSION_DENIED",
                 info("SECURITY_POLICY_VIOLATED")), api.Denied, "perimeter"),
        (refusal(403, "Request had insufficient authentication scopes.", "PERMISSION_DENIED", info("ACCESS_TOKEN_SCOPE_INSUFFICIENT")),
         api.Denied, "scope cloud-platform"),
        (refusal(400, "Invalid value", "INVALID_ARGUMENT", {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [
            {"field": "cluster.name", "description": "must match a pattern"}]}), api.BadRequest, "cluster.name: must match a pattern"),
        ((418, {"error": "short"}), api.GcpError, "short"),
    ],
)  # fmt: skip
def test_other_errors(server, gcp, answer, kind, what):
    server.answers = [answer]
    error = error_of(gcp)
    assert type(error) is kind
    assert what in str(error)
    assert "<" not in str(error)
    assert str(error).startswith(CREATE)


def test_error_codes_and_reasons(server, gcp):
    server.answers = [refusal(400, "x", "FAILED_PRECONDITION", info("CLUSTER_BUSY"))]
    error = error_of(gcp)
    assert (error.status, error.code, error.reason) == (400, "FAILED_PRECONDITION", "CLUSTER_BUSY")


# -- operations -----------------------------------------------------------------------------------------------------------------


def test_an_operation_that_is_done_is_not_asked_for(server, gcp):
    assert gcp.wait({"name": "operations/noop.DONE_OPERATION", "done": True, "response": {"a": 1}})["response"] == {"a": 1}
    assert server.requests == []


def test_a_long_running_operation(server, gcp):
    server.answers = [(200, {"name": "operations/1"}), (200, {"name": "operations/1", "done": True, "response": {"a": 1}})]
    done = gcp.wait({"name": "operations/1", "done": False}, "serviceusage.operations.get", what="switching on")
    assert done["response"] == {"a": 1}
    assert server.seen() == [("GET", "/serviceusage/v1/operations/1")] * 2
    assert gcp.progress[0].startswith("switching on: running") and "done" in gcp.progress[-1]


@pytest.mark.parametrize(
    "scope, path",
    [
        ({}, "global"),
        ({"region": "https://x/regions/europe-west4"}, "regions/europe-west4"),
        ({"zone": "https://x/zones/a-b"}, "zones/a-b"),
    ],
)
def test_compute_operations(server, gcp, scope, path):
    link = "https://www.googleapis.com/compute/v1/projects/elsewhere/" + path + "/operations/operation-1"
    operation = {"kind": "compute#operation", "name": "operation-1", "selfLink": link, "status": "RUNNING", **scope}
    server.answers = [(200, {**operation, "progress": 50}), (200, {**operation, "status": "DONE"})]
    assert gcp.wait(operation, what="address")["status"] == "DONE"
    assert server.seen() == [("GET", f"/compute/compute/v1/projects/elsewhere/{path}/operations/operation-1")] * 2
    assert any("50 %" in line for line in gcp.progress)


def test_container_operations(server, gcp):
    link = "https://container.googleapis.com/v1/projects/42/locations/europe-west4/operations/operation-1"
    operation = {"name": "operation-1", "operationType": "CREATE_CLUSTER", "status": "PENDING", "selfLink": link, "targetLink": "x"}
    server.answers = [(200, {**operation, "status": "RUNNING"}), (200, {**operation, "status": "DONE"})]
    gcp.wait(operation)
    assert server.seen() == [("GET", "/container/v1/projects/42/locations/europe-west4/operations/operation-1")] * 2


def test_operations_survive_cuts_expired_tokens_and_busy_services(server, gcp):
    expired = refusal(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED")
    server.answers = [
        CUT,
        (200, {"name": "operations/1"}),
        expired,
        (503, {}),
        (429, {}),
        CUT,
        (200, {"name": "operations/1", "done": True}),
    ]
    gcp.wait({"name": "operations/1"}, "serviceusage.operations.get")
    assert server.tokens() == 2


def test_operations_survive_a_network_that_is_away_for_long(server, gcp, monkeypatch):
    monkeypatch.setattr(api, "BACKOFF", (0.01,))
    server.answers = [CUT] * 9 + [(200, {"name": "operations/1", "done": True})]
    gcp.wait({"name": "operations/1"}, "serviceusage.operations.get")
    assert any("Trying again" in line for line in gcp.progress)


def test_a_token_that_cannot_be_renewed_during_an_operation(server):
    server.answers = [(200, {"name": "operations/1"}), refusal(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED")]
    gcp = api.Gcp("test-project", access_token="t", endpoint=server.endpoint)
    with pytest.raises(api.TokenExpired, match="cluster a goes on without this run .operation operations/1..*print-access-token"):
        gcp.wait({"name": "operations/1"}, "serviceusage.operations.get", what="cluster a")


def test_an_operation_that_takes_too_long(server, gcp):
    server.answers = [(200, {"name": "operations/1", "metadata": {"state": "PROVISIONING"}})]
    with pytest.raises(
        api.OperationTimeout, match="cluster a: still provisioning after .* s .operations/1.|operation operations/1"
    ) as caught:
        gcp.wait({"name": "operations/1"}, "serviceusage.operations.get", what="cluster a", timeout=0.1)
    assert "run again later" in str(caught.value)
    assert caught.value.operation["name"] == "operations/1"


@pytest.mark.parametrize(
    "operation, cause, what",
    [
        (
            {"name": "operations/1", "done": True, "error": {"code": 9, "message": "Billing must be enabled for activation of service(s)"}},
            api.BillingDisabled,
            "Billing must be enabled",
        ),
        (
            {
                "kind": "compute#operation",
                "name": "operation-1",
                "status": "DONE",
                "httpErrorStatusCode": 403,
                "error": {"errors": [{"code": "QUOTA_EXCEEDED", "message": "Quota 'STATIC_ADDRESSES' exceeded.  Limit: 8.0 globally."}]},
            },
            api.QuotaExceeded,
            "metric STATIC_ADDRESSES, limit 8",
        ),
        (
            {
                "name": "operation-1",
                "status": "DONE",
                "error": {"code": 8, "message": "Insufficient regional quota: resource \"CPUS\": project has a quota of '8.0'"},
            },
            api.QuotaExceeded,
            "metric CPUS, limit 8",
        ),
        ({"name": "operation-1", "status": "DONE", "statusMessage": "Nodes did not register."}, api.BadRequest, "Nodes did not register."),
    ],
)
def test_operations_that_fail(server, gcp, operation, cause, what):
    with pytest.raises(api.OperationFailed, match="cluster a failed: ") as caught:
        gcp.wait(operation, what="cluster a")
    assert isinstance(caught.value.cause, cause)
    assert what in str(caught.value)
    assert operation["name"] in str(caught.value)


# -- modules and descriptions ---------------------------------------------------------------------------------------------------


def test_every_service_is_described():
    for service in api.VERSIONS:
        assert descriptions.description(service)["rootUrl"].endswith("googleapis.com/")
    with pytest.raises(KeyError, match="no description of compute v9"):
        descriptions.description("compute", "v9")


def test_our_own_description_is_whole():
    """Every reference leads somewhere, and every parameter of a path is declared."""
    text = json.dumps(descriptions.KRMAPIHOSTING)
    schemas = descriptions.KRMAPIHOSTING["schemas"]
    assert {part.split('"')[0] for part in text.split('"$ref": "')[1:]} <= set(schemas)
    for name in ("create", "get", "list", "patch", "delete"):
        method = descriptions.method(f"krmapihosting.projects.locations.krmApiHosts.{name}")
        assert method["parameterOrder"] == [method["path"].split("{+")[1].split("}")[0]]


def test_nothing_of_google_is_imported_before_it_is_needed():
    """Modules that only read their parameters start quickly, and compute's 5 MB are read by who calls compute."""
    script = (
        "import sys\n"
        "from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, descriptions\n"
        "assert not [name for name in sys.modules if name.startswith(('google', 'requests', 'cryptography'))]\n"
        "descriptions.method('serviceusage.services.get')\n"
        "assert descriptions.description.cache_info().currsize == 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)})


class Module:
    """What connect and fail need of an AnsibleModule."""

    def __init__(self, **params):
        self.params = dict.fromkeys(api.argument_spec()) | {"project": "test-project", "timeout": 5} | params

    def fail_json(self, **result):
        raise SystemExit(json.dumps(result))


def test_a_module_fails_with_all_that_is_known(server):
    error = api.error_of(*refusal(403, "Quota 'CPUS' exceeded.  Limit: 8.0 in region a-b1.", "", errors=[{"reason": "quotaExceeded"}]))
    with pytest.raises(SystemExit) as caught:
        api.fail(Module(), error, changed=True)
    result = json.loads(str(caught.value))
    assert result["metric"] == "CPUS" and result["limit"] == 8 and result["region"] == "a-b1" and result["changed"]
    assert result["msg"] == str(error)


def test_a_module_without_the_libraries_says_what_to_install(monkeypatch):
    monkeypatch.setattr(api, "_importable", lambda name: name != "googleapiclient")
    with pytest.raises(SystemExit, match="google-api-python-client.*ansible_python_interpreter"):
        api.connect(Module())


def test_a_module_reports_into_the_file_of_the_action_plugin(server, account, monkeypatch, tmp_path):
    file = tmp_path / "progress"
    file.touch()
    monkeypatch.setenv("MLOPS_PLATFORM_PROGRESS", str(file))
    gcp = api.connect(Module(credentials_file=account, endpoint=server.endpoint))
    gcp.report("half-way")
    assert file.read_text() == "half-way\n"
