"""The rehearsal refuses what Google refuses, keeps what it was given, and is reached by programs that know nothing of it."""

import base64
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from google.auth.transport.requests import AuthorizedSession
from google.oauth2.service_account import Credentials

from rehearsal import Call, descriptions
from rehearsal.call import HANDLERS
from rehearsal.server import Rehearsal
from rehearsal.state import ACCOUNT

ROOT = Path(__file__).parents[2]
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
PROJECT = "cloudresourcemanager/v3/projects/rehearsal-project"
SECRETS = "secretmanager/v1/projects/rehearsal-project/secrets"
CLUSTERS = "container/v1/projects/rehearsal-project/locations/asia-northeast3/clusters"
BILLING = "cloudbilling/v1/projects/rehearsal-project/billingInfo"
SERVICES = "serviceusage/v1/projects/rehearsal-project/services"


class Client:
    """Requests with a token, without any proxy of the environment."""

    def __init__(self, endpoint, token):
        self.endpoint, self.session = endpoint, requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {token}"

    def __call__(self, verb, path, body=None, **options):
        return self.session.request(verb, f"{self.endpoint}/{path}", json=body, timeout=30, **options)

    def done(self, service, answer):
        """The operation in an answer, once it has ended."""
        assert answer.status_code == 200, answer.text
        name, deadline = answer.json()["name"], time.monotonic() + 10
        while not (operation := self("GET", f"{service}/v1/{name}").json()).get("done"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return operation


@pytest.fixture
def client(rehearsal):
    return Client(rehearsal.endpoint, rehearsal.access_token)


def reason(answer):
    found = [detail["reason"] for detail in answer.json()["error"].get("details", []) if detail["@type"].endswith("ErrorInfo")]
    return found[0] if found else None


# ---- what the descriptions decide


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (CLUSTERS, {"cluster": {"name": "c", "autopilots": {}}}, "Unknown name \"autopilots\" at 'cluster': Cannot find field."),
        (CLUSTERS, {"cluster": {"releaseChannel": {"channel": "FAST"}}}, "Invalid value at 'cluster.release_channel.channel'"),
        (CLUSTERS, {"cluster": {"initialNodeCount": "three"}}, "Invalid value at 'cluster.initial_node_count' (TYPE_INT32), \"three\""),
        (CLUSTERS, {"cluster": {"initialNodeCount": 2**31}}, "(TYPE_INT32)"),
        (CLUSTERS, {"cluster": {"nodePools": [{"config": {"spot": "true"}}]}}, "'cluster.node_pools[0].config.spot' (TYPE_BOOL)"),
        (CLUSTERS, {"cluster": {"nodePools": {"name": "p"}}}, "'cluster.node_pools' (repeated field)"),
        (CLUSTERS, {"cluster": {"resourceLabels": {"a": 1}}}, "'cluster.resource_labels.a' (TYPE_STRING), 1"),
        (CLUSTERS, {"cluster": "c"}, "Invalid value at 'cluster'"),
        (CLUSTERS, ["c"], "Root element must be a message"),
        (f"{SERVICES}:batchEnable", {"services": ["ml.googleapis.com"]}, 'Unknown name "services"'),
        (f"{PROJECT}:setIamPolicy", {"policy": {"etag": "not base64!"}}, "'policy.etag' (TYPE_BYTES)"),
        (f"{SECRETS}?secretId=s", {"replication": {"automatic": {}}, "ttl": "1 hour"}, "'ttl' (TYPE_GOOGLE-DURATION)"),
        ("compute/compute/v1/projects/rehearsal-project/global/firewalls", {"network": "default"}, "Required field 'name' not specified"),
        ("compute/compute/v1/projects/rehearsal-project/global/firewalls", {"name": "Web_1"}, "Must be a match of regex"),
        ("compute/compute/v1/projects/rehearsal-project/global/firewalls?region=x", {"name": "web"}, "'region' could not be found"),
    ],
)
def test_a_body_that_is_not_as_described_is_refused(client, path, body, message):
    answer = client("POST", path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert message in error["message"]
    assert message in "\n".join(found["description"] for found in error["details"][0]["fieldViolations"])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{SERVICES}?page_size=3", 'Unknown name "page_size"'),
        (f"{SERVICES}?pageSize=many", "'page_size' (TYPE_INT32)"),
        (f"{SERVICES}?pageSize=3&pageSize=4", "once only"),
        (f"{SERVICES}?alt=xml", "Invalid value at 'alt'"),
        ("compute/compute/v1/projects/rehearsal-project/zones?maxResults=-1", "Its minimum is 0"),
        ("compute/compute/v1/projects/Rehearsal_Project/zones", "Must be a match of regex"),
        ("compute/compute/v1/projects/rehearsal-project/zones?prettyPrint=yes", "(TYPE_BOOL)"),
    ],
)
def test_a_parameter_that_is_not_as_described_is_refused(client, path, message):
    answer = client("GET", path)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]


def test_every_wrong_field_is_told_at_once(client):
    answer = client("POST", CLUSTERS, {"cluster": {"foo": 1, "locations": "here"}, "bar": 2})
    assert len(answer.json()["error"]["details"][0]["fieldViolations"]) == 3


@pytest.mark.parametrize(
    ("verb", "path"),
    [("GET", "container/v1/clusters"), ("PATCH", CLUSTERS), ("GET", "nosuch/v1/things"), ("GET", "compute/v1/projects/p"), ("GET", "")],
)
def test_an_unknown_method_is_not_found(client, verb, path):
    assert client(verb, path).status_code == 404


def test_a_method_that_is_described_but_not_imitated_says_so(client):
    answer = client("GET", "cloudresourcemanager/v3/organizations/1")
    assert (answer.status_code, answer.json()["error"]["status"]) == (501, "UNIMPLEMENTED")


def test_every_function_answers_a_method_that_google_describes():
    served = [descriptions.served(service, version) for service, versions in descriptions.SERVED.items() for version in versions]
    known = {method for description in served for method in description.methods}
    assert not set(HANDLERS) - known


def test_an_answer_that_google_would_not_give_is_an_error_of_the_rehearsal(client, monkeypatch):
    def wrong(call: Call) -> dict:
        return {"projectId": "x", "billingEnabled": "yes", "balance": 3}

    monkeypatch.setitem(HANDLERS, "cloudbilling.projects.getBillingInfo", wrong)
    answer = client("GET", BILLING)
    assert answer.status_code == 500
    assert "billing_enabled" in answer.json()["error"]["message"] and '"balance"' in answer.json()["error"]["message"]


def test_an_error_of_the_rehearsal_names_its_place_but_no_values(client, monkeypatch):
    monkeypatch.setitem(HANDLERS, "secretmanager.projects.secrets.addVersion", lambda call: int(call.body["payload"]["data"]))
    answer = client("POST", f"{SECRETS}/s:addVersion", {"payload": {"data": "aHVzaA=="}})
    assert answer.status_code == 500 and "ValueError in" in answer.text and "aHVzaA" not in answer.text


# ---- who may


def test_without_a_good_token_nothing_is_answered(rehearsal):
    for headers in ({}, {"Authorization": "Bearer ya29.made-up"}, {"Authorization": f"Basic {rehearsal.access_token}"}):
        answer = requests.get(f"{rehearsal.endpoint}/{BILLING}", headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_credentials_file_gets_tokens_that_expire(tmp_path):
    server = Rehearsal(tmp_path, token_seconds=1).start()
    try:
        credentials = Credentials.from_service_account_file(server.credentials_file, scopes=SCOPES)
        session = AuthorizedSession(credentials)
        assert session.get(f"{server.endpoint}/cloudbilling/v1/billingAccounts").status_code == 403  # its API is off, so it got that far
        old = Client(server.endpoint, credentials.token)
        time.sleep(1.1)
        answer = old("GET", "cloudbilling/v1/billingAccounts")
        assert (answer.status_code, reason(answer)) == (401, "ACCESS_TOKEN_EXPIRED")
    finally:
        server.stop()


def test_a_forged_assertion_gets_no_token(rehearsal, tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from google.auth import crypt, jwt

    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    account = json.loads(Path(rehearsal.credentials_file).read_text())
    claims = {"iss": account["client_email"], "aud": account["token_uri"], "iat": time.time(), "exp": time.time() + 60, "scope": SCOPES[0]}
    own = crypt.RSASigner.from_service_account_info(account)
    for signer, changed in (
        (crypt.RSASigner.from_string(pem, account["private_key_id"]), {}),
        (own, {"aud": "https://elsewhere"}),
        (own, {"exp": time.time() - 600, "iat": time.time() - 900}),
        (own, {"iss": "other@rehearsal-project.iam.gserviceaccount.com"}),
    ):
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": jwt.encode(signer, claims | changed).decode()}
        answer = requests.post(f"{rehearsal.endpoint}/oauth2/token", data=form, timeout=30)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def test_a_refresh_token_is_a_user(rehearsal):
    user = json.loads((Path(rehearsal.credentials_file).parent / "user.json").read_text())
    form = {"grant_type": "refresh_token", **{key: user[key] for key in ("client_id", "client_secret", "refresh_token")}}
    token = requests.post(f"{rehearsal.endpoint}/oauth2/token", data=form, timeout=30).json()["access_token"]
    found = requests.get(f"{rehearsal.endpoint}/oauth2/tokeninfo", params={"access_token": token}, timeout=30).json()
    assert found["email"] == "engineer@example.com" and 3500 < int(found["expires_in"]) <= 3600
    assert requests.get(f"{rehearsal.endpoint}/oauth2/tokeninfo?access_token=no", timeout=30).status_code == 400
    wrong = requests.post(f"{rehearsal.endpoint}/oauth2/token", data={**form, "client_secret": "no"}, timeout=30)
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")


def test_a_token_of_narrow_scope_does_not_reach_other_services(rehearsal):
    narrow = ["https://www.googleapis.com/auth/cloud-billing"]
    session = AuthorizedSession(Credentials.from_service_account_file(rehearsal.credentials_file, scopes=narrow))
    assert session.get(f"{rehearsal.endpoint}/{BILLING}").status_code == 200
    answer = session.get(f"{rehearsal.endpoint}/{PROJECT}")
    assert (answer.status_code, reason(answer)) == (403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT")


def test_impersonation_needs_a_token_creator(rehearsal, client):
    email = "runner@rehearsal-project.iam.gserviceaccount.com"
    rehearsal.seed({"projects": {rehearsal.project: {"serviceAccounts": {email: {"email": email}}}}})
    path, body = f"iamcredentials/v1/projects/-/serviceAccounts/{email}:generateAccessToken", {"scope": SCOPES, "lifetime": "60s"}
    assert reason(client("POST", path, body)) == "IAM_PERMISSION_DENIED"
    creator = {"role": "roles/iam.serviceAccountTokenCreator", "members": [f"serviceAccount:{ACCOUNT}"]}
    rehearsal.seed({"projects": {rehearsal.project: {"serviceAccounts": {email: {"iamPolicy": {"bindings": [creator]}}}}}})
    token = client("POST", path, body).json()["accessToken"]
    answer = Client(rehearsal.endpoint, token)("GET", "www/oauth2/v2/userinfo")
    assert answer.json()["email"] == email


def test_calls_are_counted_to_a_project_that_the_caller_may_use(client):
    answer = client("GET", BILLING, headers={"X-Goog-User-Project": "another-project"})
    assert (answer.status_code, reason(answer)) == (403, "USER_PROJECT_DENIED")
    assert client("GET", BILLING, headers={"X-Goog-User-Project": "rehearsal-project"}).status_code == 200


# ---- projects, APIs, billing


def test_an_api_that_is_off_refuses_with_what_to_do(rehearsal, client):
    rehearsal.state["projects"][rehearsal.project]["services"].remove("container.googleapis.com")
    answer = client("GET", CLUSTERS)
    assert (answer.status_code, reason(answer)) == (403, "SERVICE_DISABLED")
    assert "Kubernetes Engine API has not been used in project" in answer.json()["error"]["message"]
    client.done("serviceusage", client("POST", f"{SERVICES}:batchEnable", {"serviceIds": ["container.googleapis.com"]}))
    assert client("GET", CLUSTERS).status_code == 200


def test_batches_of_apis_have_google_s_limits(client):
    many = [f"{name}.googleapis.com" for name in ("ml", "run") * 16]
    assert client("POST", f"{SERVICES}:batchEnable", {"serviceIds": many[:21]}).status_code == 400
    names = [f"projects/rehearsal-project/services/{name}" for name in many]
    assert client("GET", f"{SERVICES}:batchGet", params={"names": names[:31]}).status_code == 400
    answer = client("GET", f"{SERVICES}:batchGet", params={"names": names[:30]})
    assert [one["state"] for one in answer.json()["services"]] == ["DISABLED"] * 30
    answer = client("POST", f"{SERVICES}:batchEnable", {"serviceIds": ["ml.googleapis.com", "no-such-api.googleapis.com"]})
    assert (answer.status_code, reason(answer)) == (403, "SERVICE_CONFIG_NOT_FOUND_OR_PERMISSION_DENIED")


def test_enabling_brings_what_an_api_needs_and_disabling_asks(rehearsal, client):
    rehearsal.state["projects"][rehearsal.project]["services"] = ["serviceusage.googleapis.com"]
    operation = client.done("serviceusage", client("POST", f"{SERVICES}/container.googleapis.com:enable", {}))
    assert operation["response"]["service"]["state"] == "ENABLED"
    on = [one["config"]["name"] for one in client("GET", f"{SERVICES}?filter=state:ENABLED").json()["services"]]
    assert {"container.googleapis.com", "compute.googleapis.com"} < set(on)
    answer = client("POST", f"{SERVICES}/compute.googleapis.com:disable", {})
    assert answer.status_code == 400 and "depended on by" in answer.json()["error"]["message"]
    client.done("serviceusage", client("POST", f"{SERVICES}/compute.googleapis.com:disable", {"disableDependentServices": True}))
    assert "container.googleapis.com" not in rehearsal.state["projects"][rehearsal.project]["services"]
    assert client("POST", f"{SERVICES}:batchEnable", {"serviceIds": ["serviceusage.googleapis.com"]}).json()["done"]


def test_without_billing_nothing_that_costs_is_enabled_or_answered(rehearsal, client):
    assert client("PUT", BILLING, {"billingAccountName": ""}).json()["billingEnabled"] is False
    answer = client("GET", CLUSTERS)
    assert (answer.status_code, reason(answer)) == (403, "BILLING_DISABLED")
    rehearsal.state["projects"][rehearsal.project]["services"] = ["serviceusage.googleapis.com"]
    answer = client("POST", f"{SERVICES}:batchEnable", {"serviceIds": ["iam.googleapis.com", "compute.googleapis.com"]})
    assert (answer.status_code, reason(answer)) == (400, "UREQ_PROJECT_BILLING_NOT_FOUND")


def test_a_project_that_is_not_there_looks_like_one_that_may_not_be_seen(client):
    assert client("GET", "cloudresourcemanager/v3/projects/no-such-project").status_code == 403
    assert client("GET", "serviceusage/v1/projects/no-such-project/services").status_code == 403
    assert reason(client("GET", CLUSTERS.replace("rehearsal-project", "no-such-project"))) == "CONSUMER_INVALID"
    assert client("GET", "compute/compute/v1/projects/no-such-project").status_code == 404


def test_a_project_is_found_by_its_number_and_in_both_versions(rehearsal, client):
    number = rehearsal.state["projects"][rehearsal.project]["projectNumber"]
    assert client("GET", f"cloudresourcemanager/v3/projects/{number}").json()["projectId"] == "rehearsal-project"
    assert client("GET", "cloudresourcemanager/v1/projects/rehearsal-project").json()["projectNumber"] == number
    found = client("GET", "cloudresourcemanager/v1/projects?filter=id:rehearsal*").json()["projects"]
    assert [one["projectId"] for one in found] == ["rehearsal-project"]


def test_pages(client):
    first = client("GET", f"{SERVICES}?pageSize=7&filter=state:ENABLED").json()
    assert len(first["services"]) == 7
    second = client("GET", f"{SERVICES}?pageSize=7&filter=state:ENABLED&pageToken={first['nextPageToken']}").json()
    assert second["services"] and "nextPageToken" not in second


# ---- IAM policies


def policy(client, version=3):
    return client("POST", f"{PROJECT}:getIamPolicy", {"options": {"requestedPolicyVersion": version}}).json()


def test_a_stale_etag_is_refused_and_nothing_is_lost(client):
    mine, other = policy(client), policy(client)
    other["bindings"].append({"role": "roles/viewer", "members": ["group:readers@example.com"]})
    assert client("POST", f"{PROJECT}:setIamPolicy", {"policy": other}).status_code == 200
    mine["bindings"].append({"role": "roles/editor", "members": ["user:alice@example.com"]})
    answer = client("POST", f"{PROJECT}:setIamPolicy", {"policy": mine})
    assert (answer.status_code, answer.json()["error"]["status"]) == (409, "ABORTED")
    assert "roles/viewer" in [binding["role"] for binding in policy(client)["bindings"]]


def test_conditions_need_version_3(client):
    conditional = {"role": "roles/viewer", "members": ["user:a@example.com"], "condition": {"title": "t", "expression": "false"}}
    current = policy(client)
    changed = {**current, "bindings": [*current["bindings"], conditional]}
    assert client("POST", f"{PROJECT}:setIamPolicy", {"policy": changed}).status_code == 400
    answer = client("POST", f"{PROJECT}:setIamPolicy", {"policy": {**changed, "version": 3}})
    assert answer.json()["version"] == 3 and conditional in answer.json()["bindings"]
    old = policy(client, 1)
    assert old["version"] == 1 and not any("condition" in binding for binding in old["bindings"])
    assert client("POST", f"{PROJECT}:setIamPolicy", {"policy": old}).status_code == 400


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("alice@example.com", "is no member"),
        ("user:alice", "is no member"),
        ("serviceAccount:nobody@rehearsal-project.iam.gserviceaccount.com", "Service account nobody@"),
        ("serviceAccount:rehearsal-project.svc.id.goog[kubeflow/default]", "Identity Pool does not exist"),
        ("user:gone@example.com", "User gone@example.com does not exist."),
    ],
)
def test_members_that_do_not_exist_are_refused(rehearsal, client, member, message):
    rehearsal.seed({"unknownMembers": ["user:gone@*"]})
    current = policy(client)
    current["bindings"].append({"role": "roles/viewer", "members": [member]})
    answer = client("POST", f"{PROJECT}:setIamPolicy", {"policy": current})
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]


def test_one_role_s_bindings_are_joined(client):
    bindings = [{"role": "roles/viewer", "members": [f"user:{name}@example.com"]} for name in "aba"]
    answer = client("POST", f"{PROJECT}:setIamPolicy", {"policy": {"bindings": bindings}})
    assert answer.json()["bindings"] == [{"role": "roles/viewer", "members": ["user:a@example.com", "user:b@example.com"]}]


# ---- secrets


def test_secrets_are_kept_and_not_shown(rehearsal, client):
    payload = base64.b64encode(b"hush").decode()
    assert client("POST", f"{SECRETS}?secretId=oauth", {"replication": {"automatic": {}}}).status_code == 200
    assert client("POST", f"{SECRETS}/oauth:addVersion", {"payload": {"data": payload}}).json()["name"].endswith("/versions/1")
    assert client("GET", f"{SECRETS}/oauth/versions/latest:access").json()["payload"] == {"data": payload, "dataCrc32c": "3474842845"}
    assert client("POST", f"{SECRETS}/oauth:addVersion", {"payload": {"data": payload, "dataCrc32c": "1"}}).status_code == 400
    assert client("GET", f"{SECRETS}/nothing/versions/latest:access").status_code == 404
    shown = requests.get(f"{rehearsal.endpoint}/rehearsal/state", timeout=30).text
    assert '"oauth"' in shown and payload not in shown
    assert payload not in client("GET", SECRETS).text


# ---- OAuth clients


def sign_in(rehearsal, **parameters):
    given = {"client_id": "1-a.apps.googleusercontent.com", "redirect_uri": "https://a/_gcp", "response_type": "code", "scope": "openid"}
    answer = requests.get(
        f"{rehearsal.endpoint}/accounts/o/oauth2/v2/auth", params={**given, **parameters}, allow_redirects=False, timeout=30
    )
    assert answer.status_code == 302
    location = urlsplit(answer.headers["Location"])
    return location.path, base64.b64decode(parse_qs(location.query).get("authError", [""])[0])


def test_the_sign_in_page_knows_clients_and_their_redirect_uris(rehearsal):
    rehearsal.seed({"oauthClients": {"1-a.apps.googleusercontent.com": {"redirectUris": ["https://a/_gcp"], "private:secret": "s"}}})
    assert sign_in(rehearsal) == ("/v3/signin/identifier", b"")
    path, error = sign_in(rehearsal, redirect_uri="https://b/_gcp")
    assert path == "/signin/oauth/error/v2" and b"redirect_uri_mismatch" in error
    assert b"invalid_client" in sign_in(rehearsal, client_id="2-b.apps.googleusercontent.com")[1]
    token, form = f"{rehearsal.endpoint}/oauth2/token", {"grant_type": "authorization_code", "code": "x"}
    known = {**form, "client_id": "1-a.apps.googleusercontent.com"}
    assert requests.post(token, data={**known, "client_secret": "s"}, timeout=30).json()["error"] == "invalid_grant"
    assert requests.post(token, data={**known, "client_secret": "t"}, timeout=30).json()["error"] == "invalid_client"


# ---- faults


@pytest.mark.parametrize(
    ("fault", "status", "why"),
    [
        ({"kind": "denied"}, 403, "IAM_PERMISSION_DENIED"),
        ({"kind": "quota", "metric": "NVIDIA_L4_GPUS", "limit": 1, "usage": 1, "region": "us-west1"}, 403, "QUOTA_EXCEEDED"),
        ({"kind": "rate"}, 429, "RATE_LIMIT_EXCEEDED"),
        ({"kind": "unavailable"}, 503, None),
        ({"kind": "service_disabled"}, 403, "SERVICE_DISABLED"),
        ({"kind": "billing_disabled"}, 403, "BILLING_DISABLED"),
        ({"kind": "conflict"}, 409, None),
        ({"kind": "refused", "http": 418, "status": "TEAPOT", "message": "short and stout"}, 418, None),
    ],
)
def test_faults_come_when_asked_for_and_as_often(rehearsal, client, fault, status, why):
    rehearsal.faults({**fault, "method": "cloudbilling.*", "after": 1, "times": 2})
    assert client("GET", PROJECT).status_code == 200
    found = [client("GET", BILLING) for _ in range(4)]
    assert [answer.status_code for answer in found] == [200, status, status, 200]
    assert reason(found[1]) == why


def test_a_denied_permission_is_not_among_those_granted(rehearsal, client):
    rehearsal.faults({"kind": "denied", "permission": "container.clusters.*", "times": None})
    asked = ["container.clusters.create", "container.operations.get"]
    answer = client("POST", f"{PROJECT}:testIamPermissions", {"permissions": asked})
    assert answer.json()["permissions"] == ["container.operations.get"]
    answer = client("POST", CLUSTERS, {"cluster": {"name": "c"}})
    assert answer.status_code == 403 and "'container.clusters.create'" in answer.json()["error"]["message"]


def test_a_cut_connection_before_and_after_the_work_is_done(rehearsal, client):
    rehearsal.faults({"kind": "cut", "method": "*.secrets.create"})
    body = {"replication": {"automatic": {}}}
    with pytest.raises(requests.ConnectionError):
        client("POST", f"{SECRETS}?secretId=s", body)
    assert client("POST", f"{SECRETS}?secretId=s", body).status_code == 200
    rehearsal.faults({"kind": "cut", "method": "*.secrets.create", "when": "after"})
    with pytest.raises(requests.ConnectionError):
        client("POST", f"{SECRETS}?secretId=t", body)
    assert client("POST", f"{SECRETS}?secretId=t", body).status_code == 409


def test_a_token_that_expires_in_the_middle_stays_expired(rehearsal, client):
    rehearsal.faults({"kind": "token_expired", "after": 1})
    assert [client("GET", BILLING).status_code for _ in range(3)] == [200, 401, 401]
    session = AuthorizedSession(Credentials.from_service_account_file(rehearsal.credentials_file, scopes=SCOPES))
    rehearsal.faults({"kind": "token_expired", "after": 1})
    assert [session.get(f"{rehearsal.endpoint}/{BILLING}").status_code for _ in range(3)] == [200, 200, 200]  # it got itself another


def test_someone_else_s_change_in_between(rehearsal, client):
    current = policy(client)
    bindings = [*current["bindings"], {"role": "roles/viewer", "members": ["user:eve@example.com"]}]
    state = {"projects": {rehearsal.project: {"iamPolicy": {"bindings": bindings}}}}
    rehearsal.faults({"kind": "change", "method": "*.setIamPolicy", "state": state})
    assert client("POST", f"{PROJECT}:setIamPolicy", {"policy": current}).status_code == 409
    assert client("POST", f"{PROJECT}:setIamPolicy", {"policy": policy(client)}).status_code == 200


def test_an_operation_that_fails_in_the_end_changes_nothing(rehearsal, client):
    rehearsal.faults({"kind": "operation_error", "status": "RESOURCE_EXHAUSTED", "message": "no room", "seconds": 0.1})
    operation = client.done("serviceusage", client("POST", f"{SERVICES}:batchEnable", {"serviceIds": ["ml.googleapis.com"]}))
    assert operation["error"] == {"code": 8, "message": "no room", "details": []}
    assert "ml.googleapis.com" not in rehearsal.state["projects"][rehearsal.project]["services"]


def test_a_slow_call_does_not_hold_up_others(rehearsal, client):
    rehearsal.faults({"kind": "slow", "method": "cloudbilling.*", "seconds": 3})
    slow = threading.Thread(target=client, args=("GET", BILLING))
    slow.start()
    while not rehearsal.state["faults"][0]["hits"]:
        time.sleep(0.01)
    assert Client(rehearsal.endpoint, rehearsal.access_token)("GET", PROJECT).status_code == 200
    assert slow.is_alive()
    slow.join()


@pytest.mark.parametrize("fault", [{"kind": "explosion"}, {"kind": "denied", "seconds": 3}, {}])
def test_faults_that_are_none_are_refused(rehearsal, fault):
    assert requests.post(f"{rehearsal.endpoint}/rehearsal/faults", json=fault, timeout=30).status_code == 400


# ---- what is kept


def test_the_log_and_the_list_of_requests_hold_no_secrets(rehearsal, client, capfd):
    client("POST", f"{SECRETS}?secretId=s", {"replication": {"automatic": {}}})
    client("POST", f"{SECRETS}/s:addVersion", {"payload": {"data": "aHVzaA=="}})
    token = client.session.headers["Authorization"].split()[1]
    client("GET", f"www/oauth2/v2/tokeninfo?access_token={token}")
    log, listed = capfd.readouterr().out, requests.get(f"{rehearsal.endpoint}/rehearsal/requests?method=secretmanager.*", timeout=30)
    assert "secretmanager.projects.secrets.addVersion 200" in log
    assert [one["method"].rsplit(".", 1)[1] for one in listed.json()] == ["create", "addVersion"]
    for secret in ("aHVzaA", token):
        assert secret not in log + listed.text
    counted = requests.get(f"{rehearsal.endpoint}/rehearsal/metrics", timeout=30).json()["methods"]
    assert counted["secretmanager.projects.secrets.create"]["requests"] == 1


def test_state_is_patched_and_reset(rehearsal, client):
    patch = {"projects": {rehearsal.project: {"billing": {"billingEnabled": False}, "labels": None}}}
    assert requests.patch(f"{rehearsal.endpoint}/rehearsal/state", json=patch, timeout=30).status_code == 200
    assert client("GET", BILLING).json()["billingEnabled"] is False
    requests.post(f"{rehearsal.endpoint}/rehearsal/seed", json={"projects": {"second-project": {"name": "Two"}}}, timeout=30)
    assert client("GET", "cloudresourcemanager/v3/projects/second-project").json()["displayName"] == "Two"
    requests.post(f"{rehearsal.endpoint}/rehearsal/reset", timeout=30)
    assert list(rehearsal.state["projects"]) == ["rehearsal-project"]


def run(*arguments):
    command = [sys.executable, "-m", "rehearsal", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_daemon_starts_once_and_continues_where_it_was(tmp_path, free_port):
    options = ("--state-dir", tmp_path, "--port", free_port, "--operation-seconds", "2")
    assert run("status", *options).returncode == 3
    started = run("start", *options)
    try:
        assert json.loads(started.stdout)["changed"], started.stderr
        again = json.loads(run("start", *options).stdout)
        assert (again["changed"], again["pid"]) == (False, json.loads(started.stdout)["pid"])
        client = Client(again["endpoint"], run("token", *options).stdout.strip())
        operation = client("POST", f"{SERVICES}:batchEnable", {"serviceIds": ["cloudbilling.googleapis.com"]})
        requests.post(f"{again['endpoint']}/rehearsal/faults", json={"kind": "unavailable", "method": "cloudbilling.*"}, timeout=30)

        assert json.loads(run("stop", *options).stdout) == {"changed": True}
        assert run("status", *options).returncode == 3
        kept = json.loads((tmp_path / "state.json").read_text())["operations"]
        assert [one["done"] for one in kept.values()] == [False]
        assert json.loads(run("start", *options).stdout)["changed"]

        client.done("serviceusage", operation)  # begun before, ended after; the token is good still
        assert [client("GET", BILLING).status_code for _ in range(2)] == [503, 200]
        other = run("start", *options[:-1], "0.1")
        assert json.loads(other.stdout)["changed"]  # other options: another process
        files = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()}
        assert not any(files.values()), files
        assert "ya29" not in (tmp_path / "rehearsal.log").read_text() + (tmp_path / "state.json").read_text()
    finally:
        run("stop", *options)


def test_a_port_that_is_taken_is_told(tmp_path, rehearsal):
    failed = run("start", "--state-dir", tmp_path, "--port", rehearsal.server.port)
    assert failed.returncode == 1 and "Address already in use" in failed.stderr


# ---- programs that know nothing of it


def proxied(rehearsal):
    """What makes a program take the rehearsal for Google, and nothing else for anything else."""
    return {
        "HTTPS_PROXY": rehearsal.endpoint,
        "NO_PROXY": "127.0.0.1,localhost",
        "REQUESTS_CA_BUNDLE": rehearsal.ca_file,
        "GCP_AUTH_KIND": "accesstoken",
        "GCP_ACCESS_TOKEN": rehearsal.access_token,
    }


def test_google_s_own_urls_lead_here_through_the_proxy(rehearsal):
    session = requests.Session()
    session.trust_env, session.proxies, session.verify = False, {"https": rehearsal.endpoint}, rehearsal.ca_file
    session.headers["Authorization"] = f"Bearer {rehearsal.access_token}"
    for url in (
        "https://cloudbilling.googleapis.com/v1/projects/rehearsal-project/billingInfo",
        "https://compute.googleapis.com/compute/v1/projects/rehearsal-project",
        "https://www.googleapis.com/compute/v1/projects/rehearsal-project",
    ):
        assert session.get(url, timeout=30).status_code == 200, url
    assert session.post("https://container.googleapis.com/v1/projects/p/zones/z/clusters", json={"x": 1}, timeout=30).status_code == 400
    with pytest.raises(requests.exceptions.ProxyError):
        session.get("https://example.com/", timeout=30)
    with pytest.raises(requests.exceptions.SSLError):
        requests.get("https://iam.googleapis.com/", proxies=session.proxies, verify=True, timeout=30)


def test_google_cloud_s_unmodified_modules(rehearsal, tmp_path):
    service = {"name": "ml.googleapis.com", "project": rehearsal.project}
    playbook = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "tasks": [
                {"google.cloud.gcp_resourcemanager_project_info": {}, "register": "projects"},
                {"ansible.builtin.assert": {"that": "projects.resources[0].projectId == 'rehearsal-project'"}},
                {"google.cloud.gcp_serviceusage_service": service, "register": "first"},
                {"google.cloud.gcp_serviceusage_service": service, "register": "second"},
                {"ansible.builtin.assert": {"that": ["first is changed", "second is not changed"]}},
            ],
        }
    ]
    (tmp_path / "play.json").write_text(json.dumps(playbook))
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and not key.startswith("ANSIBLE_")}
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", "-c", "local", "play.json"], cwd=tmp_path,
        env={**environment, **proxied(rehearsal), "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["status"] for one in rehearsal.requests("serviceusage.services.enable")] == [200]
    assert "ml.googleapis.com" in rehearsal.state["projects"][rehearsal.project]["services"]
