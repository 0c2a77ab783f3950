"""Who gets in, on Molecule's cluster: Istio's verifier of tokens and its policies, with tokens of a test issuer in place of Google's."""

from __future__ import annotations

import base64
import http.client
import json
import time

import pytest
import yaml
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from .conftest import MOLECULE_VARIABLES, ROOT

pytestmark = pytest.mark.cluster

ISSUER = "https://issuer.example.com"
AUDIENCE = "/projects/123456789012/global/backendServices/1234567890123456789"
HEADER = "x-goog-iap-jwt-assertion"
USER_HEADER = "x-goog-authenticated-user-email"
ANN, BOB, EVE = "ann@example.com", "bob@example.com", "eve@example.com"
USERS = [
    {"email": ANN, "namespace": "access-ann", "contributors": [{"email": BOB, "role": "view"}]},
    {"email": BOB, "namespace": "access-bob"},
]
DOMAIN = yaml.safe_load((ROOT / "inventories/kind/group_vars/all/knative.yml").read_text())["knative_domain"]
MODEL, ECHO = f"sklearn-iris.access-ann.{DOMAIN}", f"echo.access-bob.{DOMAIN}"
QUESTION = {"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}
# tells the headers that it was asked with
ECHO_SERVER = """
import http.server, json
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({name.lower(): value for name, value in self.headers.items()}).encode())
http.server.ThreadingHTTPServer(("", 8080), Echo).serve_forever()
"""


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs tokens."""

    def __init__(self):
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def jwks(self) -> str:
        numbers = self.key.public_key().public_numbers()
        e, n = (encoded(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (numbers.e, numbers.n))
        return json.dumps({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "test", "e": e, "n": n}]})

    def token(self, email: str, **claims) -> str:
        now = int(time.time())
        payload = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 600, "sub": "accounts.google.com:1", "email": email, **claims}
        parts = ({"alg": "RS256", "typ": "JWT", "kid": "test"}, payload)
        text = ".".join(encoded(json.dumps(part).encode()) for part in parts)
        return f"{text}.{encoded(self.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


@pytest.fixture(scope="module")
def issuer():
    return Issuer()


@pytest.fixture(scope="module")
def ask(gateway):
    """`ask(host, token, …)` → (status, body) at the gateway."""

    def send(host: str, token: str | None = None, path: str = "/", body=None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(gateway, timeout=60)
        given = {"Host": host, **({HEADER: token} if token else {}), **{name.replace("_", "-"): value for name, value in headers.items()}}
        try:
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, given)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    return send


@pytest.fixture(scope="module")
def role(on_cluster, tmp_path_factory, issuer):
    """`role(*arguments)` runs the role with a login by tokens of the issuer; `.open()` without one."""
    if not (ROOT / "plugins/filter/kubeflow_users.py").exists():
        pytest.skip("there is no filter for users")
    values = tmp_path_factory.mktemp("access") / "values.yml"
    given = {
        "kubeflow_access": "iap",
        "kubeflow_iap_frontend": "external",
        "kubeflow_iap_issuer": ISSUER,
        "kubeflow_iap_audiences": [AUDIENCE],
        "kubeflow_iap_jwks": issuer.jwks(),
        "kubeflow_users": USERS,
    }
    values.write_text(yaml.safe_dump(given))

    def run(*arguments, playbook="site.yml", tags=("--tags", "kubeflow")):
        return on_cluster(playbook, *tags, "-e", f"@{values}", *arguments)

    run.open = lambda *arguments: on_cluster("site.yml", "--tags", "kubeflow", *arguments)
    return run


def workloads():
    python = {"image": "docker.io/kserve/sklearnserver:v0.8.0", "imagePullPolicy": "IfNotPresent"}
    small = {"requests": {"cpu": "25m", "memory": "64Mi"}}
    model = {"modelFormat": {"name": "sklearn"}, "storageUri": "gs://kfserving-examples/models/sklearn/1.0/model", "resources": small}
    echo = {**python, "command": ["python3", "-c", ECHO_SERVER], "ports": [{"containerPort": 8080}], "resources": small}
    return [
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": user["namespace"]}} for user in USERS),
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "sklearn-iris", "namespace": "access-ann"},
            "spec": {"predictor": {"model": model, "timeout": 10}},
        },
        {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {"name": "echo", "namespace": "access-bob"},
            "spec": {"template": {"spec": {"timeoutSeconds": 10, "containers": [echo]}}},
        },
    ]


@pytest.fixture
def login_of_dex(on_cluster, tmp_path, issuer):
    """The same with dex, which is not there: only what the gateway gets, and the keys of its tokens."""
    playbook = tmp_path / "access.yml"
    task = {"ansible.builtin.import_role": {"name": "mlops.platform.kubeflow", "tasks_from": "access"}}
    playbook.write_text(yaml.safe_dump([{"hosts": "platform", "gather_facts": False, "tasks": [task]}]))
    values = tmp_path / "values.yml"
    given = {
        "kubeflow_access": "dex",
        "kubeflow_dex_issuer": ISSUER,
        "kubeflow_dex_jwks": issuer.jwks(),
        "kubeflow_hosts": ["localhost"],
        "kubeflow_users": USERS,
        "__kubeflow_has_pages": True,
    }
    values.write_text(yaml.safe_dump(given))
    return lambda *arguments: on_cluster(str(playbook), "-e", f"@{values}", *arguments)


@pytest.fixture(scope="module", autouse=True)
def closed(role, kubectl, ask):
    """The door is closed, and there is something behind it; in the end all of it is gone."""
    try:
        first = role()
        assert first.code == 0, first.output
        kubectl("apply", "--server-side", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": workloads()}))
        for kind, name, namespace in (("inferenceservice", "sklearn-iris", "access-ann"), ("ksvc", "echo", "access-bob")):
            kubectl("wait", kind, name, f"--namespace={namespace}", "--for=condition=Ready", "--timeout=110s")
        eventually(lambda: ask(ECHO)[0], 403)
        yield first
    finally:
        opened = role.open()
        kubectl("delete", "namespace", "--ignore-not-found", *(user["namespace"] for user in USERS))
    assert opened.code == 0, opened.output


def eventually(look, wanted, seconds=30.0):
    """The gateway gets what was applied within seconds."""
    end = time.monotonic() + seconds
    while (found := look()) != wanted and time.monotonic() < end:
        time.sleep(0.3)
    assert found == wanted


def test_without_a_token_nobody_gets_in(ask):
    assert ask(ECHO) == (403, "RBAC: access denied")
    assert ask(MODEL, path="/v1/models/sklearn-iris:predict", body=QUESTION)[0] == 403
    assert ask("nowhere.example.com")[0] == 403


def test_the_owner_gets_an_answer(ask, issuer):
    status, body = ask(MODEL, issuer.token(ANN), "/v1/models/sklearn-iris:predict", QUESTION)
    assert (status, json.loads(body)) == (200, {"predictions": [1, 1]})
    assert ask(ECHO, issuer.token(BOB))[0] == 200


def test_a_contributor_gets_an_answer_and_nobody_else(ask, issuer):
    assert ask(MODEL, issuer.token(BOB), "/v1/models/sklearn-iris:predict", QUESTION)[0] == 200
    for email in (ANN, EVE, "bob@example.com.evil.example.com"):
        assert ask(ECHO, issuer.token(email)) == (403, "RBAC: access denied")
    assert ask(MODEL, issuer.token(EVE), "/v1/models/sklearn-iris:predict", QUESTION)[0] == 403


def test_tokens_that_are_not_right_are_refused(ask, issuer):
    now = int(time.time())
    assert ask(ECHO, issuer.token(BOB, aud="/projects/123456789012/global/backendServices/2"))[0] == 403
    assert ask(ECHO, issuer.token(BOB, aud="not-known-yet"))[0] == 403
    assert ask(ECHO, issuer.token(BOB, exp=now - 120, iat=now - 720))[0] == 401
    assert ask(ECHO, issuer.token(BOB, iss="https://other.example.com"))[0] == 401
    assert ask(ECHO, Issuer().token(BOB))[0] == 401  # signed by somebody else
    assert ask(ECHO, f"{issuer.token(BOB).rpartition('.')[0]}.")[0] == 401
    assert ask(ECHO, "nonsense")[0] == 401
    assert ask(ECHO, Authorization=f"Bearer {issuer.token(BOB)}")[0] == 403  # not where Identity-Aware Proxy puts it
    assert ask(ECHO, issuer.token(""))[0] == 403


def test_no_spelling_of_a_name_gets_past_the_policies(ask, issuer):
    port = yaml.safe_load(MOLECULE_VARIABLES.read_text())["kind_http_port"]
    for host in (ECHO, f"{ECHO}:80", f"{ECHO}:{port}"):
        assert ask(host, issuer.token(BOB))[0] == 200
    for host in (ECHO.upper(), f"{ECHO}:80", f"{ECHO}:{port}", f"{ECHO}:1234", f"{ECHO}:x", f"{ECHO}:", f"{ECHO}:080", f"{ECHO}."):
        assert ask(host, issuer.token(EVE))[0] == 403, host
    assert ask(f"echo-access-bob.{DOMAIN}", issuer.token(BOB))[0] == 403  # as KServe names models that are plain Deployments


def test_who_the_user_is_comes_from_the_token_alone(ask, issuer):
    status, body = ask(ECHO, issuer.token(BOB), x_goog_authenticated_user_email=ANN)
    assert status == 200 and json.loads(body)[USER_HEADER] == BOB


def test_the_health_check_needs_no_token(kubectl):
    kubectl("get", "--raw", "/api/v1/namespaces/istio-ingress/services/http:istio-ingress:15021/proxy/healthz/ready")


def test_requests_from_inside_the_cluster_are_not_concerned(role):
    tried = role(playbook="playbooks/smoke.yml", tags=())
    assert tried.code == 0, tried.output
    assert "not asked by the ingress gateway" in tried.text and 'prediction: {"predictions":[1,1]}' in tried.text


def test_again_and_back(role, ask, kubectl):
    again = role("--diff")
    assert again.code == 0 and again.recap("changed") == 0, again.output
    predicted = role.open("--check", "--diff")
    assert predicted.code == 0 and "-kind: AuthorizationPolicy" in predicted.output.replace("- kind", "-kind"), predicted.output
    assert ask(ECHO)[0] == 403
    opened = role.open()
    assert opened.code == 0, opened.output
    assert "whoever reaches the gateway may claim to be anyone" in opened.text
    assert kubectl("get", "requestauthentications,authorizationpolicies", "--all-namespaces", "--output=name") == ""
    eventually(lambda: ask(ECHO)[0], 200)
    for host in (f"{ECHO}:1234", f"{ECHO}:x"):  # they do lead there, so it was the policies that refused them
        assert ask(host)[0] == 200


def test_tokens_of_dex(login_of_dex, ask, issuer):
    applied = login_of_dex()
    assert applied.code == 0, applied.output
    # without a token the gateway would ask oauth2-proxy, which istiod does not know here: then it refuses
    eventually(lambda: ask(ECHO)[0], 403)
    status, body = ask(ECHO, Authorization=f"Bearer {issuer.token(BOB, groups=['ml'])}", kubeflow_userid=ANN)
    assert status == 200 and json.loads(body)["kubeflow-userid"] == BOB
    assert ask(ECHO, Authorization=f"Bearer {issuer.token(EVE)}")[0] == 403
    assert ask(ECHO, Authorization=f"Bearer {Issuer().token(BOB)}")[0] == 401
    assert ask("localhost", path="/dex/auth")[0] == 404  # lets in to sign in, and there is no dex
    assert ask("localhost", path="/")[0] == 403
    again = login_of_dex("--diff")
    assert again.code == 0 and again.recap("changed") == 0, again.output
