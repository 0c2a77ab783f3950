"""Users of Kubeflow: what is filled in, what is refused with which words, and the documents."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from ansible_collections.mlops.platform.plugins.filter.kubeflow_users import (
    deleted_user_documents,
    kubeflow_users,
    user_documents,
    user_problems,
)
from ansible_collections.mlops.platform.plugins.module_utils import documents

ROOT = Path(__file__).parents[2]
ADA = {
    "email": "Ada.Lovelace+ml@example.com",
    "quota": {"cpu": 4, "requests.nvidia.com/gpu": 1},
    "contributors": [{"email": "Grace_Hopper@example.com", "role": "edit"}, {"email": "alan@example.com", "role": "view"}],
}
BOB = {"email": "bob@example.com", "namespace": "research", "pod_security": "restricted"}
SMALL = {"cpu": "10m", "memory": "32Mi"}


def made(users, **options):
    """The documents by kind and name."""
    docs = user_documents(kubeflow_users(users), **options)
    assert documents.load(documents=docs) == docs
    return {(doc["kind"], doc["metadata"]["name"]): doc for doc in docs}


# -- what is filled in --------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_filled_in():
    assert kubeflow_users([ADA, BOB], "privileged") == [
        {
            "email": ADA["email"],
            "namespace": "ada-lovelace-ml",
            "quota": {"cpu": "4", "requests.nvidia.com/gpu": "1"},
            "contributors": ADA["contributors"],
            "pod_security": "privileged",
        },
        {"email": BOB["email"], "namespace": "research", "quota": {}, "contributors": [], "pod_security": "restricted"},
    ]


def test_a_list_with_problems_is_refused_with_all_of_them():
    with pytest.raises(AnsibleFilterError, match=r"(?s)kubeflow_users\[0\].*kubeflow_users\[1\]"):
        kubeflow_users([{"email": "ada"}, {"email": "bob"}])


# -- what is wrong ------------------------------------------------------------------------------------------------------


def test_nothing_is_wrong():
    assert user_problems([ADA, BOB], ["gone"]) == []


@pytest.mark.parametrize(
    ("user", "problem"),
    [
        ("ada@example.com", "kubeflow_users[0]: 'ada@example.com' is not a mapping; write {email: name@example.com}"),
        ({}, "kubeflow_users[0].email: is not set; write an e-mail address such as name@example.com"),
        ({"email": "ada"}, "kubeflow_users[0].email: 'ada' is not an e-mail address; write one such as name@example.com"),
        (
            {**BOB, "name": "bob"},
            "kubeflow_users[0]: has the unknown key 'name'; known are email, namespace, quota, contributors, pod_security",
        ),
        (
            {"email": "_ada@example.com"},
            "kubeflow_users[0].namespace: '-ada' (derived from _ada@example.com) is not a Kubernetes name: it "
            "starts or ends with a hyphen; write "
            "up to 63 small letters, digits and hyphens, a letter or digit at both ends",
        ),
        (
            {"email": "kubeflow@example.com"},
            "kubeflow_users[0].namespace: 'kubeflow' (derived from kubeflow@example.com) is a namespace of the platform; write another",
        ),
        (
            {**BOB, "namespace": "kube-node-lease"},
            "kubeflow_users[0].namespace: 'kube-node-lease' is a namespace of the platform; write another",
        ),
        (
            {**BOB, "pod_security": "strict"},
            "kubeflow_users[0].pod_security: 'strict' is no Pod Security Standard; write privileged, baseline or restricted",
        ),
        ({**BOB, "quota": {"memory": "8GB"}}, "kubeflow_users[0].quota.memory: '8GB' is not a resource quantity; write 8G"),
        ({**BOB, "quota": {"cpu": -1}}, "kubeflow_users[0].quota.cpu: '-1' is negative; write a quantity of 0 or more"),
        (
            {**BOB, "quota": {"nvidia.com/gpu": 1}},
            "kubeflow_users[0].quota.nvidia.com/gpu: '1' is a limit of nvidia.com/gpu, which no quota "
            "counts; write requests.nvidia.com/gpu",
        ),
        (
            {**BOB, "contributors": [{"email": "ada@example.com", "role": "admin"}]},
            "kubeflow_users[0].contributors[0].role: 'admin' is not a known role; write edit or view",
        ),
        (
            {**BOB, "contributors": [{"email": "ada@example.com"}]},
            "kubeflow_users[0].contributors[0]: {'email': 'ada@example.com'} is not what is expected; "
            "write {email: name@example.com, role: edit}",
        ),
        (
            {**BOB, "contributors": [{"email": "Bob@example.com", "role": "edit"}]},
            "kubeflow_users[0].contributors[0]: Bob@example.com owns this namespace already; leave this contributor out",
        ),
        (
            {**BOB, "contributors": [{"email": "a@example.com", "role": "edit"}, {"email": "a@example.com", "role": "view"}]},
            "kubeflow_users[0].contributors[1]: a@example.com is there twice; leave one out",
        ),
    ],
)
def test_a_problem_is_named_with_its_remedy(user, problem):
    assert user_problems([user]) == [problem]


def test_two_users_of_one_namespace_are_both_named():
    assert user_problems([{"email": "ada@example.com"}, BOB, {"email": "ada@example.org"}]) == [
        "kubeflow_users[2] (ada@example.org) and kubeflow_users[0] (ada@example.com) both have the namespace ada; "
        "give one another by `namespace`"
    ]


def test_only_what_nobody_has_any_more_is_deleted():
    assert user_problems([BOB], ["research", "istio-system", "ada"]) == [
        "kubeflow_delete_users[0]: research is the namespace of bob@example.com; take this user out of kubeflow_users, or it out of here",
        "kubeflow_delete_users[1]: istio-system is a namespace of the platform; write the namespaces of users only",
    ]


def test_the_general_standard_must_be_one():
    assert user_problems([], pod_security="base") == [
        "kubeflow_user_pod_security: 'base' is no Pod Security Standard; write privileged, baseline or restricted"
    ]


# -- the documents ------------------------------------------------------------------------------------------------------


def test_with_profiles_the_controller_makes_the_rest():
    docs = made([ADA], labels={"part": "of"}, user_id_header="x-user", user_id_prefix="accounts:", principals=["gateway"])
    grace, alan = "user-grace-hopper-example-com-clusterrole-edit", "user-alan-example-com-clusterrole-view"
    assert set(docs) == {
        ("Namespace", "ada-lovelace-ml"),
        ("Profile", "ada-lovelace-ml"),
        *((kind, name) for kind in ("RoleBinding", "AuthorizationPolicy") for name in (grace, alan)),
    }
    assert docs["Namespace", "ada-lovelace-ml"]["metadata"] == {
        "name": "ada-lovelace-ml",
        "annotations": {"owner": ADA["email"]},
        "labels": {"part": "of", "pod-security.kubernetes.io/enforce": "baseline"},
    }
    assert docs["Profile", "ada-lovelace-ml"]["spec"] == {
        "owner": {"kind": "User", "name": ADA["email"]},
        "resourceQuotaSpec": {"hard": {"cpu": "4", "requests.nvidia.com/gpu": "1"}},
    }
    binding, policy = docs["RoleBinding", grace], docs["AuthorizationPolicy", grace]
    assert binding["metadata"]["annotations"] == policy["metadata"]["annotations"] == {"user": "Grace_Hopper@example.com", "role": "edit"}
    assert (binding["roleRef"]["name"], binding["subjects"][0]["name"]) == ("kubeflow-edit", "Grace_Hopper@example.com")
    assert policy["spec"]["rules"] == [
        {
            "when": [{"key": "request.headers[x-user]", "values": ["accounts:Grace_Hopper@example.com"]}],
            "from": [{"source": {"principals": ["gateway"]}}],
        }
    ]
    assert docs["RoleBinding", alan]["roleRef"]["name"] == "kubeflow-view"


def test_a_profile_without_quota_has_none():
    assert made([BOB])["Profile", "research"]["spec"] == {"owner": {"kind": "User", "name": BOB["email"]}}


def test_without_profiles_the_same_is_made_by_the_role():
    docs = made([ADA, BOB], profiles=False, roles={"admin": "admin", "edit": "edit", "view": "view"})
    per_user = [(doc["kind"], doc["metadata"]["name"]) for doc in docs.values() if doc["metadata"].get("namespace") == "research"]
    assert per_user == [
        *((kind, account) for account in ("default-editor", "default-viewer") for kind in ("ServiceAccount", "RoleBinding")),
        ("RoleBinding", "namespaceAdmin"),
    ]
    assert docs["ResourceQuota", "kf-resource-quota"]["metadata"]["namespace"] == "ada-lovelace-ml"
    owner = docs["RoleBinding", "namespaceAdmin"]
    assert (owner["roleRef"]["name"], owner["subjects"][0]["name"]) == ("admin", BOB["email"])
    assert owner["metadata"]["annotations"] == {"user": BOB["email"], "role": "admin"}
    editor = docs["RoleBinding", "default-editor"]
    assert (editor["roleRef"]["name"], editor["subjects"]) == (
        "edit",
        [{"kind": "ServiceAccount", "name": "default-editor", "namespace": "research"}],
    )
    assert not [kind for kind, _name in docs if kind in ("Profile", "AuthorizationPolicy")]


def test_rights_of_the_components_reach_the_roles_of_kubernetes():
    docs = made([BOB], profiles=False)
    edit = docs["ClusterRole", "kubeflow-users-edit"]
    assert set(edit["metadata"]["labels"]) == {f"rbac.authorization.k8s.io/aggregate-to-{role}" for role in ("edit", "admin")}
    [selector] = edit["aggregationRule"]["clusterRoleSelectors"]
    assert selector["matchLabels"] == {"rbac.authorization.kubeflow.org/aggregate-to-kubeflow-edit": "true"}
    assert user_documents([], profiles=False) == []


@pytest.mark.parametrize(
    ("quota", "requests"),
    [
        ({"cpu": 1}, {"cpu": "10m"}),
        ({"requests.memory": "1Gi", "requests.cpu": 1}, SMALL),
        ({"pods": 3, "limits.cpu": 1, "requests.nvidia.com/gpu": 1}, None),
        ({}, None),
    ],
)
def test_containers_that_say_nothing_request_what_the_quota_counts(quota, requests):
    found = made([{**BOB, "quota": quota}], default_requests=SMALL).get(("LimitRange", "default-requests"))
    assert (found and found["spec"]["limits"][0]["defaultRequest"]) == requests


def test_profiles_are_deleted_with_their_namespaces():
    assert [(doc["kind"], doc["metadata"]["name"]) for doc in deleted_user_documents(["ada", "bob"])] == [
        ("Profile", "ada"), ("Namespace", "ada"), ("Profile", "bob"), ("Namespace", "bob"),
    ]  # fmt: skip


# -- the role's variables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selected", "labels", "istiod", "wanted", "standard"),
    [
        (["profiles"], {"istio-injection": "enabled"}, {}, "", "privileged"),
        (["profiles"], {"istio.io/rev": "1-31"}, {}, "", "privileged"),
        (["profiles"], {"istio-injection": "enabled"}, {"pilot": {"cni": {"enabled": True}}}, "", "baseline"),
        (["profiles"], {"istio-injection": "enabled"}, {}, "restricted", "restricted"),
        (["profiles"], {"control-plane": "kubeflow"}, {}, "", "baseline"),
        (["training-operator"], {"istio-injection": "enabled"}, {}, "", "baseline"),
    ],
)
def test_pods_may_have_what_their_proxies_need(selected, labels, istiod, wanted, standard):
    loader = DataLoader()
    found = loader.load_from_file(str(ROOT / "roles/kubeflow/vars/main.yml"), trusted_as_template=True)
    given = {"kubeflow_namespace_labels": labels, "istio_istiod_values": istiod, "kubeflow_user_pod_security": wanted}
    templar = Templar(loader=loader, variables={**found, **given, "__kubeflow_selected": selected})
    assert templar.template(found["__kubeflow_user_pod_security"]) == standard
    assert ("control-plane" in templar.template(found["__kubeflow_user_mesh_labels"])) is False
