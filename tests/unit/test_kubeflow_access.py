"""Who gets in: what the role kubeflow applies for each way in, and the module that finds out for whom tokens are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What the inventory says, beside what is tried
GIVEN = {
    "platform_gcp_project": "my-project",
    "knative_domain": "models.example.com",
    "istio_gateway_name": "gateway",
    "istio_gateway_namespace": "in",
    "istio_gateway_selector": {"istio": "in"},
    "__kubeflow_selected": ["kubeflow-istio-resources"],
}


# Renders the documents of each line of variables. In a process of its own: Ansible finds filters of the collection only where nobody has
# imported parts of the collection before.
RENDER = """
import json, sys
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
role, collections = sys.argv[1:]
init_plugin_loader([collections])
loader = DataLoader()
defaults, fixed = (loader.load_from_file(f"{role}/{part}/main.yml", trusted_as_template=True) for part in ("defaults", "vars"))
for line in sys.stdin:
    given = {**defaults, **fixed, **json.loads(line), "ansible_search_path": [role]}
    print(json.dumps(Templar(loader=loader, variables=given).template(fixed["__kubeflow_access_documents"])), flush=True)
"""


@pytest.fixture(scope="module")
def access():
    """`access(**variables)` → the documents by kind and name."""
    command = [sys.executable, "-c", RENDER, str(ROOT / "roles/kubeflow"), str(ROOT / "collections")]
    renderer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def render(**variables):
        renderer.stdin.write(json.dumps({**GIVEN, **variables}) + "\n")
        renderer.stdin.flush()
        found = json.loads(renderer.stdout.readline())
        assert {doc["metadata"]["namespace"] for doc in found} <= {"in"}
        assert {doc["metadata"]["labels"]["mlops.platform/component"] for doc in found} <= {"access"}
        named = {f"{doc['kind']} {doc['metadata']['name']}": doc for doc in found}
        assert len(named) == len(found)
        return named

    yield render
    renderer.stdin.close()
    assert renderer.wait(10) == 0


LOGIN = {"RequestAuthentication kubeflow-login", "AuthorizationPolicy kubeflow-login"}


def accepted(docs):
    """The one rule for tokens."""
    [rule] = docs["RequestAuthentication kubeflow-login"]["spec"]["jwtRules"]
    return rule


def test_none_is_nothing(access):
    assert access(kubeflow_access="none") == {}


def test_components_without_pages_need_no_login(access):
    assert access(kubeflow_access="dex", __kubeflow_selected=["training-operator"]) == {}


def test_the_default_is_the_clouds(access):
    assert set(access()) > LOGIN
    assert "AuthorizationPolicy kubeflow-sign-in" in access(platform_gcp_project="")


def test_until_it_is_known_for_whom_tokens_are_nobody_has_one(access):
    rule = accepted(access())
    assert rule["audiences"] == ["not-known-yet"]  # an empty list would mean: for anybody
    found = {"audiences": ["/projects/1/global/backendServices/2"]}
    rule = accepted(access(__kubeflow_backends=found))
    assert rule["audiences"] == found["audiences"]
    rule = accepted(access(__kubeflow_backends={"skipped": True}, kubeflow_iap_audiences=["a"]))
    assert rule["audiences"] == ["a"]


def test_tokens_of_iap(access):
    docs = access(kubeflow_iap_frontend="external", kubeflow_iap_audiences=["a"])
    assert set(docs) == LOGIN
    assert docs["RequestAuthentication kubeflow-login"]["spec"] == {
        "selector": {"matchLabels": {"istio": "in"}},
        "jwtRules": [
            {
                "issuer": "https://cloud.google.com/iap",
                "jwksUri": "https://www.gstatic.com/iap/verify/public_key-jwk",
                "audiences": ["a"],
                "fromHeaders": [{"name": "x-goog-iap-jwt-assertion"}],
                "forwardOriginalToken": True,
                "outputClaimToHeaders": [{"header": "x-goog-authenticated-user-email", "claim": "email"}],
            }
        ],
    }
    assert docs["AuthorizationPolicy kubeflow-login"]["spec"] == {
        "action": "DENY",
        "selector": {"matchLabels": {"istio": "in"}},
        "rules": [{"from": [{"source": {"notRequestPrincipals": ["*"]}}], "to": [{"operation": {"notPorts": ["8081"]}}]}],
    }


def test_keys_may_be_given(access):
    rule = accepted(access(kubeflow_iap_jwks='{"keys": []}'))
    assert rule["jwks"] == '{"keys": []}' and "jwksUri" not in rule


def test_the_header_has_the_prefix_that_iap_gives_it_or_none(access):
    rule = accepted(access(kubeflow_user_id_prefix="accounts.google.com:"))
    assert "outputClaimToHeaders" not in rule  # as IAP sends it


def test_login_of_dex(access):
    docs = access(kubeflow_access="dex")
    assert set(docs) == LOGIN | {"AuthorizationPolicy kubeflow-sign-in"}
    rule = accepted(docs)
    assert rule["issuer"] == "http://dex.auth.svc.cluster.local:5556/dex" and "audiences" not in rule
    assert rule["outputClaimToHeaders"][0] == {"header": "kubeflow-userid", "claim": "email"}
    for name in ("kubeflow-login", "kubeflow-sign-in"):
        [rule] = docs[f"AuthorizationPolicy {name}"]["spec"]["rules"]
        assert rule["to"] == [{"operation": {"notPorts": ["8081"], "notPaths": ["/dex/*", "/oauth2/*"]}}]
    assert docs["AuthorizationPolicy kubeflow-sign-in"]["spec"]["provider"] == {"name": "oauth2-proxy"}


def test_the_header_follows_the_way_in(access):
    def headers(**given):
        rule = accepted(access(**given))
        return [each["header"] for each in rule["outputClaimToHeaders"]]

    assert headers(kubeflow_access="dex", kubeflow_user_id_header="x-user") == ["x-user", "kubeflow-groups"]
    assert headers(kubeflow_user_id_header="x-user") == ["x-user"]


# -- users --------------------------------------------------------------------------------------------------------------

USERS = [
    {"email": "Ann@example.com", "namespace": "ann", "contributors": [{"email": "bob@example.com", "role": "view"}]},
    {"email": "bob@example.com", "namespace": "bob"},
]


@pytest.fixture
def policies(access):
    if not (ROOT / "plugins/filter/kubeflow_users.py").exists():
        pytest.skip("there is no filter for users")

    def render(**variables):
        docs = access(**{"kubeflow_users": USERS, "kubeflow_ports": [80, 31380], **variables})
        return {name.split()[1]: doc["spec"]["rules"] for name, doc in docs.items() if doc["kind"] == "AuthorizationPolicy"}

    return render


def test_only_a_namespaces_people_may_call_what_is_in_it(policies):
    rules = policies()
    assert set(rules) == {"kubeflow-login", "kubeflow-user-ann", "kubeflow-user-bob", "kubeflow-hosts"}
    hosts = ["*.ann.models.example.com", "*.ann.models.example.com:80", "*.ann.models.example.com:31380"]
    assert rules["kubeflow-user-ann"] == [
        {
            "to": [{"operation": {"notPorts": ["8081"], "hosts": hosts}}],
            "when": [{"key": "request.auth.claims[email]", "notValues": ["Ann@example.com", "bob@example.com", "ann@example.com"]}],
        }
    ]
    assert rules["kubeflow-user-bob"][0]["when"][0]["notValues"] == ["bob@example.com"]


def test_other_names_do_not_get_past_the_policies(policies):
    [rule] = policies(kubeflow_hosts=["*.apps.example.com"])["kubeflow-hosts"]
    names = ["*.ann.models.example.com", "*.bob.models.example.com", "*.apps.example.com", "kubeflow.endpoints.my-project.cloud.goog"]
    assert rule == {
        "to": [{"operation": {"notPorts": ["8081"], "notHosts": names + [f"{name}:{port}" for name in names for port in (80, 31380)]}}]
    }


def test_where_anybody_gets_in_users_are_not_kept_apart(policies):
    assert policies(kubeflow_access="none") == {}
