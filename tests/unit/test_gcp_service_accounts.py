"""Service accounts: made in one go, repaired, removed; bad names found before anything is asked."""

from __future__ import annotations

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.gcp import service_accounts
from ansible_collections.mlops.platform.plugins.modules import gcp_service_accounts
from tests.unit.modules import run

ACCOUNTS = [
    {"account_id": "kubeflow-admin", "display_name": "Kubeflow", "description": "Ingress and profiles"},
    {"account_id": "kubeflow-user", "display_name": "Kubeflow users"},
    {"account_id": "kubeflow-vm"},
]


def stored(rehearsal, account_id):
    return rehearsal.state["projects"][rehearsal.project]["serviceAccounts"].get(
        f"{account_id}@{rehearsal.project}.iam.gserviceaccount.com"
    )


def calls(rehearsal):
    return [each["method"].rpartition(".")[2] for each in rehearsal.requests("iam.*")]


@pytest.mark.parametrize(
    ("account_id", "fine"),
    [
        ("sixsix", True),
        ("a" * 30, True),
        ("a" * 31, False),
        ("short", False),
        ("1digit-first", False),
        ("Capital", False),
        ("ends-with-", False),
    ],
)
def test_account_ids(account_id, fine):
    assert bool(service_accounts.problems([{"account_id": account_id, "display_name": None, "description": None}])) != fine


def test_all_problems_are_named_at_once():
    wrong = service_accounts.problems(
        [
            {"account_id": "kubeflow-admin", "display_name": "ü" * 51, "description": None},
            {"account_id": "kubeflow-admin", "display_name": None, "description": "x" * 257},
        ]
    )
    assert "display_name of kubeflow-admin: is 102 bytes long; write at most 100" in wrong
    assert "description of kubeflow-admin: is 257 bytes long; write at most 256" in wrong
    assert "account_id: 'kubeflow-admin' is given twice; leave one out" in wrong


def test_address_of_an_account_in_a_domains_project():
    (account,) = service_accounts.accounts_of("example.com:prj", [{"account_id": "abcdef", "display_name": None, "description": None}])
    assert account.email == "abcdef@prj.example.com.iam.gserviceaccount.com"


def test_accounts_are_made_with_one_look_and_then_stay(rehearsal):
    made = run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)
    assert not made["failed"], made["msg"]
    assert made["accounts"]["kubeflow-user"]["email"] == f"kubeflow-user@{rehearsal.project}.iam.gserviceaccount.com"
    assert {each["action"] for each in made["accounts"].values()} == {"created"}
    assert calls(rehearsal) == ["list", "create", "create", "create"]
    again = run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)
    assert not again["changed"] and not again.get("diff")
    assert calls(rehearsal)[4:] == ["list"]
    assert again["accounts"]["kubeflow-vm"]["unique_id"] == made["accounts"]["kubeflow-vm"]["unique_id"] != ""


def test_more_accounts_than_fit_on_a_page(rehearsal):
    many = {
        f"a{number:06}@{rehearsal.project}.iam.gserviceaccount.com": {"email": f"a{number:06}@x", "uniqueId": str(number)}
        for number in range(97)
    }
    rehearsal.seed({"projects": {rehearsal.project: {"serviceAccounts": many}}})
    run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)
    assert not run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)["changed"]


def test_check_mode_predicts(rehearsal):
    predicted = run(gcp_service_accounts, rehearsal, check=True, accounts=ACCOUNTS)
    assert predicted["changed"] and predicted["accounts"]["kubeflow-vm"]["action"] == "created"
    assert predicted["diff"][0]["after"] == {"displayName": "Kubeflow", "description": "Ingress and profiles"}
    assert calls(rehearsal) == ["list"]


def test_drift_is_repaired_and_what_is_not_given_stays(rehearsal):
    run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)
    for name in ("kubeflow-admin", "kubeflow-user"):
        stored(rehearsal, name)["displayName"] = "renamed"
        stored(rehearsal, name)["description"] = "by hand"
    shown = run(gcp_service_accounts, rehearsal, check=True, accounts=ACCOUNTS)
    assert [each["before"] for each in shown["diff"]] == [
        {"displayName": "renamed", "description": "by hand"}, {"displayName": "renamed"},
    ]  # fmt: skip
    run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)
    assert stored(rehearsal, "kubeflow-admin")["description"] == "Ingress and profiles"
    assert stored(rehearsal, "kubeflow-user")["description"] == "by hand"
    assert stored(rehearsal, "kubeflow-user")["displayName"] == "Kubeflow users"
    assert not run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)["changed"]


def test_absent(rehearsal):
    run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)
    assert run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS[:1], state="absent")["changed"]
    assert stored(rehearsal, "kubeflow-admin") is None and stored(rehearsal, "kubeflow-user")
    assert not run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS[:1], state="absent")["changed"]


def test_an_interrupted_run_is_finished_by_the_next(rehearsal):
    rehearsal.faults({"kind": "denied", "method": "iam.projects.serviceAccounts.create", "after": 1})
    stopped = run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)
    assert stopped["failed"] and stopped["changed"] and list(stopped["accounts"]) == ["kubeflow-admin"]
    assert "lacks iam.serviceAccounts.create" in stopped["msg"]
    finished = run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)
    assert [each["action"] for each in finished["accounts"].values()] == ["unchanged", "created", "created"]


def test_somebody_else_was_faster(rehearsal):
    email = f"kubeflow-vm@{rehearsal.project}.iam.gserviceaccount.com"
    account = {"email": email, "uniqueId": "7", "name": f"projects/{rehearsal.project}/serviceAccounts/{email}"}
    theirs = {"projects": {rehearsal.project: {"serviceAccounts": {email: account}}}}
    rehearsal.faults({"kind": "change", "method": "iam.projects.serviceAccounts.create", "state": theirs})
    result = run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS[2:])
    assert not result["failed"] and result["accounts"]["kubeflow-vm"]["action"] == "unchanged"


def test_disabled_account_is_reported(rehearsal):
    run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)
    stored(rehearsal, "kubeflow-vm")["disabled"] = True
    result = run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)
    assert not result["changed"] and result["accounts"]["kubeflow-vm"]["disabled"]
    assert "gcloud iam service-accounts enable kubeflow-vm@" in result["warnings"][0]


def test_api_that_is_off(rehearsal):
    rehearsal.seed({"projects": {rehearsal.project: {"services": ["serviceusage.googleapis.com"]}}})
    assert "gcloud services enable iam.googleapis.com" in run(gcp_service_accounts, rehearsal, accounts=ACCOUNTS)["msg"]
    assert run(gcp_service_accounts, rehearsal, check=True, accounts=ACCOUNTS)["changed"]
