import base64

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.gcp import oauth
from ansible_collections.mlops.platform.plugins.modules import oauth_client
from tests.unit import modules

ID = "123456789012-abc123def456.apps.googleusercontent.com"
SIGN_IN = f"https://accounts.google.com/v3/signin/identifier?opparams=%253F&client_id={ID}"
ERROR = "https://accounts.google.com/signin/oauth/error?flowName=GeneralOAuthFlow&authError="
# What Google writes into authError, byte for byte
UNKNOWN = "Cg5pbnZhbGlkX2NsaWVudBIfVGhlIE9BdXRoIGNsaWVudCB3YXMgbm90IGZvdW5kLiCRAw%3D%3D"
DELETED = "Cg5kZWxldGVkX2NsaWVudBIdVGhlIE9BdXRoIGNsaWVudCB3YXMgZGVsZXRlZC4gkQM%3D"
MISMATCH_CUT = "ChVyZWRpcmVjdF91cmlfbWlzbWF0Y2gSsAEKWW91IGNhbid0IHNpZ24gaW4gdG8gdGhpcyBhcHA"


def answer(status=302, location="", body=""):
    return oauth.authorisation_answer(status, location, body, ID)


@pytest.mark.parametrize(
    "encoded, kind, code",
    [
        (UNKNOWN, oauth.UNKNOWN, "invalid_client"),
        (DELETED, oauth.DELETED, "deleted_client"),
        (MISMATCH_CUT, oauth.MISMATCH, "redirect_uri_mismatch"),  # a message that ends early still names the code
        (base64.urlsafe_b64encode(b"\x0a\x0corg_internal\x12\x02no").decode(), oauth.REFUSED, "org_internal"),
        ("%%%", oauth.UNCLEAR, ""),
        ("", oauth.UNCLEAR, ""),
    ],
)
def test_refusals(encoded, kind, code):
    found = answer(location=ERROR + (encoded or "%20"))
    assert (found.kind, found.code) == (kind, code)


def test_refusals_say_why():
    assert answer(location=ERROR + UNKNOWN).text == "The OAuth client was not found."


def test_the_sign_in_page_means_accepted():
    assert answer(location=SIGN_IN).kind == oauth.ACCEPTED
    assert answer(200, body='<input id="identifierId">').kind == oauth.ACCEPTED


def test_sent_back_to_the_client_means_accepted():
    assert answer(location=f"{oauth.redirect_uri(ID)}?error=login_required").kind == oauth.ACCEPTED


@pytest.mark.parametrize(
    "status, location, body",
    [
        (200, "", "<html>Please accept the terms of this network</html>"),  # a captive portal
        (302, "https://proxy.example.com/blocked", ""),
        (302, "https://accounts.google.com/signin/oauth/error?another=form", ""),
        (407, "", "Proxy Authentication Required"),
        (403, "", "<html>Forbidden by policy</html>"),
        (503, "", ""),
    ],
)
def test_what_google_did_not_say_is_unclear(status, location, body):
    assert answer(status, location, body).kind == oauth.UNCLEAR


def test_error_pages():
    page = "<html><title>Error</title><p><b>400.</b> That's an error.</p><b>Error: redirect_uri_mismatch</b></html>"
    assert answer(400, body=page).kind == oauth.MISMATCH
    assert answer(401, body="<p>Error 401: invalid_client</p>").kind == oauth.UNKNOWN
    assert answer(400, body='{"error": "deleted_client"}').kind == oauth.DELETED


@pytest.mark.parametrize(
    "status, body, kind",
    [
        (400, '{"error": "invalid_grant", "error_description": "Malformed auth code."}', oauth.ACCEPTED),
        (401, '{"error": "invalid_client", "error_description": "The provided client secret is invalid."}', oauth.REFUSED),
        (400, '{"error": "unsupported_grant_type"}', oauth.UNCLEAR),
        (502, "<html>Bad Gateway</html>", oauth.UNCLEAR),
        (200, "[]", oauth.UNCLEAR),
    ],
)
def test_token_endpoint(status, body, kind):
    assert oauth.token_answer(status, body).kind == kind


def test_endpoints():
    assert oauth.endpoint(oauth.AUTHORISATION) == "https://accounts.google.com/o/oauth2/v2/auth"
    assert oauth.endpoint(oauth.AUTHORISATION, "http://127.0.0.1:1/") == "http://127.0.0.1:1/accounts/o/oauth2/v2/auth"
    assert oauth.endpoint(oauth.TOKEN, "http://127.0.0.1:1") == "http://127.0.0.1:1/oauth2/token"


@pytest.mark.parametrize(
    "client_id, secret",
    [(ID, "GOCSPX-abcdefghijklmnopqrstuvwxyz12"), ("123456789012.apps.googleusercontent.com", "a" * 24), ("", ""), (ID, "")],
)
def test_right_forms(client_id, secret):
    assert oauth.faults(client_id, secret) == []


@pytest.mark.parametrize(
    "client_id, secret, words",
    [
        ("my-client", "", "'my-client' does not have the form"),
        ("123456789012-abc.apps.googleusercontent.com.", "", "does not have the form"),
        ("GOCSPX-abcdefghijklmnopqrst", "", "swapped"),
        ("", ID, "swapped"),
        (ID, "changeme", "has 8 characters"),
        (ID, "{{ vault_client_secret }}", "placeholder"),
    ],
)
def test_wrong_forms(client_id, secret, words):
    (fault,) = oauth.faults(client_id, secret)
    assert words in fault
    assert "GOCSPX-abc" not in fault and "changeme" not in fault


def test_console_steps_are_filled_in():
    steps = oauth.console_steps("my-project", "Kubeflow", "ann@example.com")
    for part in ("auth/branding?project=my-project", "Kubeflow", "ann@example.com", "my-project.cloud.goog", "Web application",
                 "https://iap.googleapis.com/v1/oauth/clientIds/<CLIENT_ID>:handleRedirect"):  # fmt: skip
        assert part in steps


def test_console_steps_for_a_known_client_have_its_redirect_uri():
    steps = oauth.console_steps("my-project", "Kubeflow", "", ID)
    assert f"https://iap.googleapis.com/v1/oauth/clientIds/{ID}:handleRedirect" in steps
    assert "<CLIENT_ID>" not in steps and "branding" not in steps


def backend(name, service, client):
    described = f'{{"kubernetes.io/service-name":"{service}"}}'
    return {"name": name, "description": described, "iap": {"enabled": True, "oauth2ClientId": client}}


def test_custom_backends_are_those_of_the_service_with_a_client():
    listed = [
        backend("ours", "istio-system/istio-ingressgateway", ID),
        backend("google", "istio-system/istio-ingressgateway", " "),
        backend("another", "default/istio-system/istio-ingressgateway-2", ID),
        {"name": "plain", "description": ""},
        {"name": "off", "iap": {"enabled": False}},
    ]
    assert oauth.custom_backends(listed, "istio-system/istio-ingressgateway") == {"ours": ID}


# -- the module, against the rehearsal ----------------------------------------------------------------------------------

SECRET = "GOCSPX-0123456789abcdefghijklmnopqr"


@pytest.fixture
def client(rehearsal, monkeypatch):
    """Runs the module. The rehearsal knows ID with SECRET and the right redirect URI."""
    for name in ("CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    rehearsal.seed({"oauthClients": {ID: {"redirectUris": [oauth.redirect_uri(ID)], "private:secret": SECRET}}})

    def run(**options):
        found = modules.run(oauth_client, rehearsal, **{"mode": "custom", "state": "checked", "cluster": "never", **options})
        assert SECRET not in str(found) and base64.b64encode(SECRET.encode()).decode() not in str(found)
        return found

    return run


def test_a_good_client_is_accepted(client, rehearsal):
    result = client(client_id=ID, client_secret=SECRET)
    assert not result["failed"] and not result["warnings"], result
    assert result["checked"] == {"redirect_uri": "accepted", "secret": "accepted"}
    assert result["redirect_uri"] == f"https://iap.googleapis.com/v1/oauth/clientIds/{ID}:handleRedirect"
    # a client that is given needs no credentials for Google Cloud
    assert [each["method"] for each in rehearsal.requests()] == ["accounts.sign_in", "oauth2.token"]


def test_without_a_client_the_steps_are_shown(client):
    result = client(support_email="ann@example.com", application_name="Models")
    assert result["failed"]
    for part in ("client ID and the client secret", "auth/branding?project=rehearsal-project", "Models", "ann@example.com",
                 "rehearsal-project.cloud.goog", "<CLIENT_ID>:handleRedirect", "CLIENT_ID and CLIENT_SECRET in the environment",
                 "oauth_iap_mode: google_managed"):  # fmt: skip
        assert part in result["msg"]


def test_without_a_secret_the_steps_are_those_of_the_client(client):
    message = client(client_id=ID)["msg"]
    assert "The client secret of the OAuth client" in message
    assert oauth.redirect_uri(ID) in message and f"auth/clients/{ID}" in message and "branding" not in message


def test_redirect_uri_is_missing(client, rehearsal):
    rehearsal.seed({"oauthClients": {ID: {"redirectUris": ["https://example.com/oauth2callback"]}}})
    message = client(client_id=ID, client_secret=SECRET)["msg"]
    assert "redirect_uri_mismatch" in message and oauth.redirect_uri(ID) in message


def test_unknown_client(client):
    message = client(client_id="999999999999-zzz.apps.googleusercontent.com", client_secret=SECRET)["msg"]
    assert message.startswith("Google knows no OAuth client 999999999999-zzz") and "The OAuth client was not found." in message


def test_secret_of_another_client(client):
    message = client(client_id=ID, client_secret="GOCSPX-another-secret-altogether")["msg"]
    assert "none of the OAuth client" in message and "another-secret" not in message


def test_unasked(client):
    assert client(client_id=ID, client_secret="GOCSPX-another-secret-altogether", ask_google=False)["checked"] == {}


def test_google_cannot_be_reached(client, free_port):
    result = client(client_id=ID, client_secret=SECRET, endpoint=f"http://127.0.0.1:{free_port}")
    assert not result["failed"] and result["checked"] == {"redirect_uri": "unclear", "secret": "unclear"}
    assert len(result["warnings"]) == 2 and "does not answer" in result["warnings"][0]


def test_environment(client, monkeypatch):
    monkeypatch.setenv("CLIENT_ID", f"{ID}\n")
    monkeypatch.setenv("CLIENT_SECRET", f" {SECRET}\n")
    result = client()
    assert result["client_id"] == ID and result["checked"]["secret"] == "accepted"
    assert result["sources"] == {"client_id": "CLIENT_ID in the environment", "client_secret": "CLIENT_SECRET in the environment"}


def stored(rehearsal, name, text, state="ENABLED"):
    version = {"createTime": "2026-01-01T00:00:00Z", "state": state, "private:data": base64.b64encode(text.encode()).decode()}
    secret = {"replication": {"automatic": {}}, "labels": {}, "createTime": "2026-01-01T00:00:00Z", "versions": {"1": version}}
    rehearsal.seed({"projects": {rehearsal.project: {"secrets": {name: secret}}}})


def test_secret_manager(client, rehearsal):
    stored(rehearsal, "iap-secret", f"{SECRET}\n")
    result = client(client_id=ID, secret_manager={"client_secret": "iap-secret"})
    assert not result["failed"], result
    assert result["sources"]["client_secret"] == f"Secret Manager: projects/{rehearsal.project}/secrets/iap-secret/versions/latest"
    assert len(rehearsal.requests("secretmanager.*")) == 1


def test_an_option_wins_over_environment_and_secret_manager(client, rehearsal, monkeypatch):
    monkeypatch.setenv("CLIENT_SECRET", "another-secret-altogether")
    result = client(client_id=ID, client_secret=SECRET, secret_manager={"client_secret": "nowhere"})
    assert result["sources"]["client_secret"] == "the option client_secret" and not result["failed"]


def test_a_secret_that_secret_manager_does_not_have(client, rehearsal):
    message = client(client_id=ID, secret_manager={"client_secret": "iap-secret"})["msg"]
    assert f"has no projects/{rehearsal.project}/secrets/iap-secret/versions/latest" in message
    assert f"gcloud secrets create iap-secret --project={rehearsal.project}" in message


def test_a_secret_that_may_not_be_read(client, rehearsal):
    stored(rehearsal, "iap-secret", SECRET)
    rehearsal.faults({"kind": "denied", "method": "secretmanager.*", "permission": "secretmanager.versions.access", "times": None})
    result = client(client_id=ID, secret_manager={"client_secret": "iap-secret"})
    assert result["failed"] and result["permission"] == "secretmanager.versions.access" and "rehearsal@" in result["principal"]


def test_a_secret_given_for_the_id_is_not_shown(client):
    result = client(client_id=SECRET, client_secret=ID)
    assert "swapped" in result["msg"]  # the fixture sees that SECRET is not in it


def seed_backend(rehearsal, client_id):
    described = '{"kubernetes.io/service-name":"istio-system/istio-ingressgateway","kubernetes.io/service-port":"80"}'
    resource = {"name": "k8s1-ingress", "id": "1", "description": described, "iap": {"enabled": True, "oauth2ClientId": client_id}}
    rehearsal.seed({"projects": {rehearsal.project: {"compute": {"backendServices": {"k8s1-ingress": resource}}}}})


def test_google_managed_needs_no_client(client):
    result = client(mode="google_managed")
    assert not result["failed"] and result["client_id"] == "" and not result["warnings"]


def test_a_backend_with_a_client_is_not_switched(client, rehearsal):
    seed_backend(rehearsal, ID)
    message = client(mode="google_managed")["msg"]
    assert "istio-system/istio-ingressgateway has a custom OAuth client: backend service k8s1-ingress" in message
    assert "oauth_iap_mode: custom" in message and "delete ingress" in message


def test_a_backend_with_googles_client_is_fine(client, rehearsal):
    seed_backend(rehearsal, " ")
    assert not client(mode="google_managed")["failed"]


def test_without_compute_there_is_no_backend(client, rehearsal):
    rehearsal.state["projects"][rehearsal.project]["services"].remove("compute.googleapis.com")
    result = client(mode="google_managed")
    assert not result["failed"] and not result["warnings"], result


def test_backends_that_may_not_be_seen_are_a_warning(client, rehearsal):
    rehearsal.faults({"kind": "denied", "method": "compute.backendServices.*", "permission": "compute.backendServices.list", "times": None})
    result = client(mode="google_managed")
    assert not result["failed"]
    assert "could not be seen" in result["warnings"][0] and "compute.backendServices.list" in result["warnings"][0]


def test_a_cluster_that_does_not_answer(client, tmp_path):
    result = client(client_id=ID, client_secret=SECRET, cluster="auto", state="present", kubeconfig=str(tmp_path / "none"))
    assert not result["failed"] and result["secret"]["action"] == "skipped" and "does not exist" in result["secret"]["reason"]
    result = client(client_id=ID, client_secret=SECRET, cluster="always", state="present", kubeconfig=str(tmp_path / "none"))
    assert result["failed"] and "does not exist" in result["msg"]
