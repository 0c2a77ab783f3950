"""The module gcp_iam_members against the rehearsal, and its merging without it."""

import copy
import threading

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, iam
from ansible_collections.mlops.platform.plugins.modules import gcp_iam_members
from tests.unit.modules import run

PROJECT = "rehearsal-project"
OWNER = {
    "role": "roles/owner",
    "members": ["serviceAccount:rehearsal@rehearsal-project.iam.gserviceaccount.com", "user:engineer@example.com"],
}
CONDITION = {"title": "until 2030", "expression": 'request.time < timestamp("2030-01-01T00:00:00Z")'}
CONDITIONAL = {"role": "roles/viewer", "members": ["user:guest@example.com"], "condition": CONDITION}
VIEWER = {"role": "roles/viewer", "members": ["user:ann@example.com"]}
ROBOT = "robot@rehearsal-project.iam.gserviceaccount.com"


@pytest.fixture
def project(rehearsal, monkeypatch):
    """The project, with a service account."""
    monkeypatch.setattr(api, "BACKOFF", (0.01,) * 6)
    account = {"name": f"projects/{PROJECT}/serviceAccounts/{ROBOT}", "email": ROBOT, "projectId": PROJECT, "uniqueId": "1"}
    rehearsal.seed({"projects": {PROJECT: {"serviceAccounts": {ROBOT: account}}}})
    return PROJECT


@pytest.fixture
def members(rehearsal, project):
    """Run the module and return its result."""

    def call(*bindings, **params):
        return run(gcp_iam_members, rehearsal, **({"bindings": list(bindings)} if bindings else {}), **params)

    return call


@pytest.fixture
def asked(rehearsal):
    """The methods that read or write policies, as they were called."""
    return lambda: [item["method"].rpartition(".")[2] for item in rehearsal.requests() if item["method"].endswith("IamPolicy")]


@pytest.fixture
def client(rehearsal, project):
    return lambda: api.Gcp(project, rehearsal.credentials_file, endpoint=rehearsal.endpoint)


def bindings(rehearsal):
    return rehearsal.state["projects"][PROJECT]["iamPolicy"]["bindings"]


def of(rehearsal, role, conditional=False):
    return sorted(
        member
        for item in bindings(rehearsal)
        if item["role"] == role and bool(item.get("condition")) == conditional
        for member in item["members"]
    )


# -- merging --------------------------------------------------------------------------------------------------------------------


def policy(*items, **more):
    return {"version": 1, "etag": "abc", "bindings": copy.deepcopy(list(items)), **more}


def test_members_are_added_beside_others():
    old = policy(OWNER, VIEWER, auditConfigs=[{"service": "allServices"}])
    new, change = iam.merge(old, [{"role": "roles/viewer", "members": ["user:bob@example.com"]}])
    assert new == policy(
        OWNER,
        {"role": "roles/viewer", "members": ["user:ann@example.com", "user:bob@example.com"]},
        auditConfigs=[{"service": "allServices"}],
    )
    assert change.added == [{"role": "roles/viewer", "members": ["user:bob@example.com"]}] and not change.removed
    assert old == policy(OWNER, VIEWER, auditConfigs=[{"service": "allServices"}])


def test_a_new_role_is_a_new_binding():
    new, change = iam.merge(policy(OWNER), [VIEWER])
    assert new["bindings"] == [OWNER, VIEWER] and change.changed


@pytest.mark.parametrize("same", ["user:ann@example.com", "user:Ann@Example.com"])
def test_what_is_there_is_no_change(same):
    new, change = iam.merge(policy(OWNER, VIEWER), [{"role": "roles/viewer", "members": [same]}])
    assert not change.changed and new["bindings"] == [OWNER, VIEWER]


def test_case_counts_in_principals():
    one = {"role": "roles/viewer", "members": ["principalSet://iam.googleapis.com/pools/Pool/*"]}
    assert iam.merge(policy(one), [{**one, "members": ["principalSet://iam.googleapis.com/pools/pool/*"]}])[1].changed


def test_bindings_with_conditions_are_others():
    old = policy(OWNER, CONDITIONAL, version=3)
    new, change = iam.merge(old, [{"role": "roles/viewer", "members": ["user:guest@example.com"]}])
    assert new["bindings"][:2] == [OWNER, CONDITIONAL] and change.added == [{"role": "roles/viewer", "members": ["user:guest@example.com"]}]
    new, change = iam.merge(old, [{"role": "roles/viewer", "members": ["user:guest@example.com"]}], absent=True)
    assert not change.changed and new == old


def test_a_condition_makes_a_policy_of_version_three():
    new, change = iam.merge(policy(OWNER), [CONDITIONAL])
    assert new["version"] == 3 and new["bindings"] == [OWNER, CONDITIONAL]
    assert change.added == [{"role": "roles/viewer", "condition": "until 2030", "members": ["user:guest@example.com"]}]
    assert "roles/viewer if until 2030: user:guest@example.com" in change.after
    assert not iam.merge(new, [CONDITIONAL])[1].changed


def test_members_are_removed_and_no_others():
    old = policy(OWNER, {"role": "roles/viewer", "members": ["user:ann@example.com", "user:bob@example.com"]})
    new, change = iam.merge(old, [VIEWER, {"role": "roles/editor", "members": ["user:ann@example.com"]}], absent=True)
    assert new["bindings"] == [OWNER, {"role": "roles/viewer", "members": ["user:bob@example.com"]}]
    assert change.removed == [VIEWER]


def test_a_binding_without_members_goes():
    assert iam.merge(policy(OWNER, VIEWER), [VIEWER], absent=True)[0]["bindings"] == [OWNER]


def test_the_same_role_twice_is_one():
    new, change = iam.merge(policy(OWNER), [VIEWER, {"role": "roles/viewer", "members": ["user:ann@example.com", "user:bob@example.com"]}])
    assert new["bindings"][1]["members"] == ["user:ann@example.com", "user:bob@example.com"]
    assert change.before == "" and change.after.count("\n") == 2


@pytest.mark.parametrize(
    "resource, role, member, what",
    [
        ("folder:1", "roles/viewer", "user:a@b.com", "'folder:1' is neither"),
        ("service_account:robot", "roles/viewer", "user:a@b.com", "'service_account:robot' is neither"),
        ("project", "viewer", "user:a@b.com", "'viewer' is not a role"),
        ("project", "roles/viewer", "a@b.com", "'a@b.com' is not a member"),
        ("project", "roles/viewer", "serviceAccount:robot", "is not a member"),
    ],
)
def test_problems(resource, role, member, what):
    assert what in iam.problems({resource: [{"role": role, "members": [member]}]})[0]


@pytest.mark.parametrize(
    "member",
    [
        "user:a@example.com", "group:a@example.com", "domain:example.com", f"serviceAccount:{ROBOT}", "allUsers",
        "serviceAccount:my-project.svc.id.goog[kubeflow/pipeline-runner]", "principal://iam.googleapis.com/x/subject/y",
    ],
)  # fmt: skip
def test_members_of_every_kind(member):
    assert iam.problems({"project": [{"role": "projects/p/roles/custom", "members": [member]}]}) == []


# -- the module -----------------------------------------------------------------------------------------------------------------


def test_one_read_and_one_write(rehearsal, members, asked):
    result = members(VIEWER, {"role": "roles/iap.httpsResourceAccessor", "members": ["group:ml@example.com"]})
    assert result["changed"] and len(result["policies"][0]["added"]) == 2
    assert result["diff"][0]["after"] == "roles/viewer: user:ann@example.com\nroles/iap.httpsResourceAccessor: group:ml@example.com\n"
    assert asked() == ["getIamPolicy", "setIamPolicy"]
    assert of(rehearsal, "roles/owner") == sorted(OWNER["members"])


def test_nothing_to_do_is_one_request(members, asked):
    members(VIEWER)
    result = members(VIEWER)
    assert not result["changed"] and result["diff"] == [] and asked()[2:] == ["getIamPolicy"]


def test_fifty_members_are_one_write(rehearsal, members, asked):
    fifty = [
        {"role": f"roles/{role}", "members": [f"user:user{number}@example.com" for number in range(10)]}
        for role in ("a", "b", "c", "d", "e")
    ]
    assert members(*fifty)["changed"] and asked() == ["getIamPolicy", "setIamPolicy"]
    assert sum(len(item["members"]) for item in bindings(rehearsal)) == 52
    assert not members(*fifty)["changed"] and asked()[2:] == ["getIamPolicy"]


def test_several_resources(rehearsal, members, asked):
    user = {"role": "roles/iam.serviceAccountUser", "members": ["user:ann@example.com"]}
    policies = [
        {"resource": "project", "bindings": [VIEWER]},
        {"resource": f"service_account:{ROBOT}", "bindings": [user]},
        {"bindings": [{"role": "roles/viewer", "members": ["user:bob@example.com"]}]},
    ]
    result = members(policies=policies)
    assert [item["resource"] for item in result["policies"]] == ["project", f"service_account:{ROBOT}"]
    assert sorted(asked()) == ["getIamPolicy"] * 2 + ["setIamPolicy"] * 2
    assert of(rehearsal, "roles/viewer") == ["user:ann@example.com", "user:bob@example.com"]
    assert not members(policies=policies)["changed"]


def test_check_mode_writes_nothing(rehearsal, members, asked):
    before = copy.deepcopy(bindings(rehearsal))
    result = members(VIEWER, check=True)
    assert result["changed"] and result["diff"][0]["after"] == "roles/viewer: user:ann@example.com\n"
    assert asked() == ["getIamPolicy"] and bindings(rehearsal) == before


def test_check_mode_predicts_what_cannot_be_read_yet(rehearsal, members):
    rehearsal.seed({"projects": {PROJECT: {"services": ["serviceusage.googleapis.com", "iam.googleapis.com"]}}})
    gone = {"resource": "service_account:new@rehearsal-project.iam.gserviceaccount.com", "bindings": [VIEWER]}
    result = members(VIEWER, policies=[gone], check=True)
    assert result["changed"] and [len(item["added"]) for item in result["policies"]] == [1, 1] and len(result["warnings"]) == 2
    result = members(VIEWER)
    assert result["failed"] and result["service"] == "cloudresourcemanager.googleapis.com"
    assert "gcloud services enable cloudresourcemanager.googleapis.com" in result["remedy"]


def test_absent(rehearsal, members):
    members(VIEWER, CONDITIONAL)
    assert members({"role": "roles/viewer", "members": ["user:ann@example.com", "user:guest@example.com"]}, state="absent")["changed"]
    assert of(rehearsal, "roles/viewer") == [] and of(rehearsal, "roles/viewer", True) == ["user:guest@example.com"]
    assert members(CONDITIONAL, state="absent")["policies"][0]["removed"][0]["condition"] == "until 2030"
    assert not members(CONDITIONAL, state="absent")["changed"]
    gone = {"resource": "service_account:gone@rehearsal-project.iam.gserviceaccount.com", "bindings": [VIEWER]}
    assert not members(policies=[gone], state="absent")["changed"]


def test_conditional_bindings_stay(rehearsal, members):
    rehearsal.seed({"projects": {PROJECT: {"iamPolicy": {"version": 3, "bindings": [OWNER, CONDITIONAL]}}}})
    assert members(VIEWER)["changed"]
    assert of(rehearsal, "roles/viewer", True) == ["user:guest@example.com"] and of(rehearsal, "roles/viewer") == ["user:ann@example.com"]
    assert next(item["condition"] for item in bindings(rehearsal) if item.get("condition")) == CONDITION


def test_somebody_elses_change_in_between_is_kept(rehearsal, members, asked):
    theirs = {"role": "roles/editor", "members": ["user:other@example.com"]}
    change = {"projects": {PROJECT: {"iamPolicy": {"version": 1, "bindings": [OWNER, theirs]}}}}
    rehearsal.faults({"kind": "change", "method": "*.setIamPolicy", "state": change})
    assert members(VIEWER)["changed"]
    assert asked() == ["getIamPolicy", "setIamPolicy"] * 2
    assert of(rehearsal, "roles/editor") == ["user:other@example.com"] and of(rehearsal, "roles/viewer") == ["user:ann@example.com"]


def test_ten_writers_at_once_lose_nothing(rehearsal, client):
    errors = []

    def write(number):
        wanted = {"project": [{"role": "roles/viewer", "members": [f"user:user{number}-{part}@example.com"]} for part in range(3)]}
        errors.append(iam.ensure(client(), wanted)[1])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [None] * 10
    assert of(rehearsal, "roles/viewer") == sorted(f"user:user{number}-{part}@example.com" for number in range(10) for part in range(3))


def test_conflicts_without_end_are_reported(rehearsal, members, monkeypatch):
    monkeypatch.setattr(iam, "CONFLICTS", 3)
    rehearsal.faults({"kind": "conflict", "method": "*.setIamPolicy", "times": None})
    result = members(VIEWER)
    assert result["failed"] and "run again" in result["remedy"]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "cut", "method": "*.setIamPolicy"},
        {"kind": "cut", "method": "*.setIamPolicy", "when": "after"},
        {"kind": "cut", "method": "*.getIamPolicy"},
        {"kind": "unavailable", "method": "*IamPolicy", "times": 2},
        {"kind": "token_expired", "method": "*.setIamPolicy"},
    ],
    ids=lambda fault: f"{fault['kind']}-{fault.get('when', 'before')}-{fault['method'].rpartition('.')[2]}",
)
def test_faults_that_are_lived_through(rehearsal, members, fault):
    rehearsal.faults(fault)
    result = members(VIEWER)
    assert result["changed"] and result["policies"][0]["added"] == [VIEWER]
    assert of(rehearsal, "roles/viewer") == ["user:ann@example.com"]
    assert not members(VIEWER)["changed"]


def test_a_member_that_does_not_exist(rehearsal, members):
    rehearsal.seed({"unknownMembers": ["user:nobody@example.com"]})
    before = copy.deepcopy(bindings(rehearsal))
    result = members({"role": "roles/viewer", "members": ["user:nobody@example.com", "user:ann@example.com"]})
    assert result["failed"] and "nobody@example.com does not exist" in result["msg"] and "see that all members exist" in result["remedy"]
    assert bindings(rehearsal) == before


def test_a_service_account_that_is_just_being_made_is_waited_for(rehearsal, members, monkeypatch):
    naps = []
    monkeypatch.setattr(iam.time, "sleep", naps.append)
    rehearsal.faults({"kind": "refused", "method": "*.setIamPolicy", "times": 2, "message": f"Service account {ROBOT} does not exist."})
    assert members({"role": "roles/viewer", "members": [f"serviceAccount:{ROBOT}"]})["changed"]
    assert naps == [3, 3]


def test_a_service_account_that_never_comes(members, monkeypatch):
    monkeypatch.setattr(iam, "NEW_ACCOUNT", 0)
    result = members({"role": "roles/viewer", "members": ["serviceAccount:gone@rehearsal-project.iam.gserviceaccount.com"]})
    assert result["failed"] and "does not exist" in result["msg"]


def test_a_pool_that_comes_with_a_cluster(members):
    member = "serviceAccount:rehearsal-project.svc.id.goog[kubeflow/pipeline-runner]"
    result = members({"role": "roles/iam.workloadIdentityUser", "members": [member]}, resource=f"service_account:{ROBOT}")
    assert result["failed"] and "make a cluster with workload identity" in result["remedy"]


def test_a_missing_permission(rehearsal, members):
    rehearsal.faults({"kind": "denied", "method": "cloudresourcemanager.projects.setIamPolicy", "times": None})
    result = members(VIEWER)
    assert result["failed"] and result["permission"] == "resourcemanager.projects.setIamPolicy"
    assert "roles/resourcemanager.projectIamAdmin" in result["remedy"]


def test_one_resource_that_fails_does_not_hide_the_other(rehearsal, members):
    rehearsal.faults({"kind": "denied", "method": "iam.projects.serviceAccounts.setIamPolicy", "times": None})
    result = members(policies=[{"bindings": [VIEWER]}, {"resource": f"service_account:{ROBOT}", "bindings": [VIEWER]}])
    assert result["failed"] and result["changed"] and [item["resource"] for item in result["policies"]] == ["project"]


def test_mistakes_are_found_before_anything_is_asked(rehearsal, members):
    result = members({"role": "viewer", "members": ["ann@example.com"]})
    assert result["failed"] and "'viewer' is not a role" in result["msg"] and "'ann@example.com' is not a member" in result["msg"]
    assert rehearsal.requests() == []
