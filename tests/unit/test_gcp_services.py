"""The module gcp_services against the rehearsal."""

import functools
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api
from ansible_collections.mlops.platform.plugins.modules import gcp_services
from rehearsal.state import FRESH
from tests.unit.modules import run

PROJECT = "rehearsal-project"
FORTY = [
    "aiplatform", "alloydb", "apigateway", "apikeys", "appengine", "artifactregistry", "batch", "bigqueryconnection",
    "binaryauthorization", "cloudasset", "cloudbuild", "clouddeploy", "cloudfunctions", "cloudkms", "cloudresourcemanager",
    "cloudscheduler", "cloudtasks", "compute", "container", "dataflow", "dataform", "datafusion", "dataproc", "dlp", "dns",
    "eventarc", "file", "gkehub", "iam", "iap", "ids", "krmapihosting", "language", "memcache", "ml", "notebooks", "redis", "run",
    "secretmanager", "sqladmin",
]  # fmt: skip


@pytest.fixture
def services(rehearsal, monkeypatch):
    """Run the module on a fresh project and return its result."""
    rehearsal.seed({"projects": {PROJECT: {"services": [f"{name}.googleapis.com" for name in FRESH]}}})
    monkeypatch.setattr(api, "BACKOFF", (0.01,) * 6)
    monkeypatch.setattr(api, "POLL_FIRST", 0.01)
    return functools.partial(run, gcp_services, rehearsal)


@pytest.fixture
def asked(rehearsal):
    """The methods that were called since, without the polls of operations."""
    return lambda: [
        item["method"] for item in rehearsal.requests() if item["method"].startswith(("serviceusage.services", "cloudb", "comp"))
    ]


def enabled(rehearsal, *names):
    return {f"{name}.googleapis.com" for name in names} <= set(rehearsal.state["projects"][PROJECT]["services"])


def test_what_is_off_is_switched_on_with_one_request(rehearsal, services, asked):
    result = services(services=["compute", "iam.googleapis.com", "serviceusage", "compute"], billing="unchecked")
    assert result["changed"] and result["switched_on"] == ["compute.googleapis.com", "iam.googleapis.com"]
    assert result["project_number"] == rehearsal.state["projects"][PROJECT]["projectNumber"]
    assert enabled(rehearsal, "compute", "iam")
    assert asked() == ["serviceusage.services.batchGet", "serviceusage.services.batchEnable"]


def test_a_second_run_only_looks(services, asked):
    services(services=["compute", "iam"])
    before = len(asked())
    result = services(services=["compute", "iam"])
    assert not result["changed"] and result["switched_on"] == []
    # Cloud Billing is off, so Compute Engine tells
    assert asked()[before:] == ["serviceusage.services.batchGet", "compute.projects.get"]


def test_forty_services_are_four_requests(rehearsal, services, asked):
    result = services(services=FORTY, billing="unchecked")
    assert len(result["switched_on"]) == 40 and enabled(rehearsal, *FORTY)
    assert asked() == ["serviceusage.services.batchGet"] * 2 + ["serviceusage.services.batchEnable"] * 2
    assert not services(services=FORTY, billing="unchecked")["changed"]
    assert asked()[4:] == ["serviceusage.services.batchGet"] * 2


def test_check_mode_predicts_and_changes_nothing(rehearsal, services, asked):
    before = list(rehearsal.state["projects"][PROJECT]["services"])
    result = services(services=["compute", "bigquery"], disabled=["storage"], check=True, billing="unchecked")
    assert (
        result["changed"] and result["switched_on"] == ["compute.googleapis.com"] and result["switched_off"] == ["storage.googleapis.com"]
    )
    assert "rehearsal-project compute.googleapis.com: disabled" in result["diff"]["before"]
    assert "rehearsal-project compute.googleapis.com: enabled" in result["diff"]["after"]
    assert rehearsal.state["projects"][PROJECT]["services"] == before
    assert asked() == ["serviceusage.services.batchGet"]


def test_only_what_is_named_is_switched_off(rehearsal, services):
    services(services=["compute", "iam", "iap"])
    result = services(services=["iam"], disabled=["iap"])
    assert result["switched_off"] == ["iap.googleapis.com"] and result["switched_on"] == []
    assert enabled(rehearsal, "compute", "iam") and not enabled(rehearsal, "iap")
    assert not services(services=["iam"], disabled=["iap"])["changed"]


def test_a_service_that_others_need_is_not_switched_off(rehearsal, services):
    services(services=["container"])
    result = services(disabled=["compute"])
    assert result["failed"] and not result["changed"]
    assert "container.googleapis.com" in result["msg"] and "name those services before it" in result["remedy"]
    assert enabled(rehearsal, "compute", "container")
    assert services(disabled=["container", "compute"])["switched_off"] == ["container.googleapis.com", "compute.googleapis.com"]


def test_on_and_off_at_once_is_refused(rehearsal, services):
    result = services(services=["compute"], disabled=["compute.googleapis.com"])
    assert result["failed"] and "compute.googleapis.com is among the services that must be on" in result["msg"]
    assert rehearsal.requests() == []


# -- billing --------------------------------------------------------------------------------------------------------------------


def no_billing(rehearsal, account=""):
    rehearsal.seed({"projects": {PROJECT: {"billing": {"billingAccountName": account, "billingEnabled": False}}}})


def test_billing_is_verified_by_cloud_billing(rehearsal, services, asked):
    services(services=["cloudbilling"], billing="unchecked")
    result = services(services=["cloudbilling"])
    assert result["billing_account"] == "billingAccounts/012345-6789AB-CDEF01"
    assert asked()[-2:] == ["serviceusage.services.batchGet", "cloudbilling.projects.getBillingInfo"]
    no_billing(rehearsal)
    result = services(services=["cloudbilling", "iam"])
    assert (
        result["failed"]
        and "it has no billing account" in result["msg"]
        and "gcloud billing projects link rehearsal-project" in result["remedy"]
    )
    no_billing(rehearsal, "billingAccounts/AAAAAA-AAAAAA-AAAAAA")
    assert "its billing account billingAccounts/AAAAAA-AAAAAA-AAAAAA is closed" in services(services=["cloudbilling", "iam"])["msg"]
    assert not enabled(rehearsal, "iam")


def test_billing_is_verified_by_compute_engine(rehearsal, services):
    services(services=["compute"])
    no_billing(rehearsal)
    result = services(services=["compute", "iam"])
    assert result["failed"] and "billing" in result["msg"].lower() and not enabled(rehearsal, "iam")


def test_billing_is_verified_by_switching_on(rehearsal, services):
    no_billing(rehearsal)
    result = services(services=["compute", "iam"])
    assert result["failed"] and "Billing must be enabled for activation of service(s)" in result["msg"]
    assert "gcloud billing projects link rehearsal-project" in result["remedy"]
    assert not enabled(rehearsal, "iam")


def test_billing_that_may_not_be_asked_is_a_warning(rehearsal, services):
    services(services=["cloudbilling", "compute"], billing="unchecked")
    rehearsal.faults(
        {"kind": "denied", "method": "cloudbilling.*", "times": None}, {"kind": "denied", "method": "compute.*", "times": None}
    )
    result = services(services=["compute", "iam"])
    assert result["switched_on"] == ["iam.googleapis.com"] and result["billing_account"] == ""
    assert "could not be verified" in result["warnings"][0] and len(result["warnings"]) == 1


# -- faults ---------------------------------------------------------------------------------------------------------------------


def test_a_name_that_there_is_not(rehearsal, services):
    result = services(services=["compute", "compute-engine"], billing="unchecked")
    assert (
        result["failed"] and "gcloud services list --available" in result["remedy"] and "compute-engine.googleapis.com" in result["remedy"]
    )


def test_a_missing_permission(rehearsal, services):
    rehearsal.faults({"kind": "denied", "method": "serviceusage.services.batchEnable", "times": None})
    result = services(services=["compute"], billing="unchecked")
    assert result["failed"] and result["permission"] == "serviceusage.services.enable"
    assert result["principal"] == "rehearsal@rehearsal-project.iam.gserviceaccount.com"
    assert "roles/serviceusage.serviceUsageAdmin" in result["remedy"]


def test_a_project_that_there_is_not(services):
    result = services(project="no-such-project", services=["compute"])
    assert result["failed"] and "see that the project exists" in result["remedy"]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "cut", "method": "serviceusage.services.batchEnable"},
        {"kind": "cut", "method": "serviceusage.services.batchEnable", "when": "after"},
        {"kind": "cut", "method": "serviceusage.operations.get", "times": 2},
        {"kind": "unavailable", "method": "serviceusage.services.batchGet", "times": 3},
        {"kind": "rate", "method": "serviceusage.services.batchEnable"},
        {"kind": "token_expired", "method": "serviceusage.operations.get"},
        {"kind": "token_expired", "method": "serviceusage.services.batchEnable"},
    ],
    ids=lambda fault: f"{fault['kind']}-{fault.get('when', 'before')}-{fault['method'].rpartition('.')[2]}",
)
def test_faults_that_are_lived_through(rehearsal, services, fault):
    rehearsal.faults(fault)
    result = services(services=["compute", "iam"], billing="unchecked")
    assert result["switched_on"] == ["compute.googleapis.com", "iam.googleapis.com"] and enabled(rehearsal, "compute", "iam")
    assert not services(services=["compute", "iam"], billing="unchecked")["changed"]


def test_an_operation_that_fails_is_reported_and_the_rerun_finishes(rehearsal, services):
    rehearsal.faults(
        {"kind": "operation_error", "method": "serviceusage.services.batchEnable", "status": "INTERNAL", "message": "It broke."}
    )
    result = services(services=["compute"], billing="unchecked")
    assert result["failed"] and "switching on compute.googleapis.com failed: It broke." in result["msg"]
    assert services(services=["compute"], billing="unchecked")["changed"] and enabled(rehearsal, "compute")


def test_what_was_done_before_a_failure_is_reported(rehearsal, services):
    rehearsal.faults({"kind": "denied", "method": "serviceusage.services.batchEnable", "after": 1})
    result = services(services=FORTY, billing="unchecked")
    assert result["failed"] and result["changed"] and len(result["switched_on"]) == 20


def test_an_operation_that_takes_too_long(rehearsal, services):
    rehearsal.faults({"kind": "operation_slow", "method": "serviceusage.services.batchEnable", "seconds": 30})
    result = services(services=["compute"], billing="unchecked", timeout=1)
    assert result["failed"] and "switching on compute.googleapis.com: still running after 1 s" in result["msg"]


def test_two_runs_at_once(rehearsal, monkeypatch):
    """As threads with clients of their own: a module's arguments are the process's."""
    monkeypatch.setattr(api, "POLL_FIRST", 0.01)
    clients = [api.Gcp(PROJECT, rehearsal.credentials_file, endpoint=rehearsal.endpoint) for _ in range(3)]
    names = gcp_services.names(FORTY[:20])
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda client: gcp_services.enable(client, names), clients))
    assert enabled(rehearsal, *FORTY[:20])


def test_no_token_is_ever_shown(rehearsal, services):
    token = api.Gcp(PROJECT, rehearsal.credentials_file, endpoint=rehearsal.endpoint).token()
    result = services(services=["compute"], credentials_file=None, access_token=token)
    assert result["switched_on"] == ["compute.googleapis.com"]
    assert token not in json.dumps(result)


# -- ways to Google -------------------------------------------------------------------------------------------------------------


def test_googles_own_addresses_through_a_proxy(rehearsal, services, monkeypatch):
    """No endpoint: the rehearsal is a proxy that ends TLS, so what arrives is what Google would get."""
    for name, value in {"HTTPS_PROXY": rehearsal.endpoint, "NO_PROXY": "", "REQUESTS_CA_BUNDLE": rehearsal.ca_file}.items():
        monkeypatch.setenv(name, value)
        monkeypatch.delenv(name.lower(), raising=False)
    result = services(endpoint=None, services=["compute", "iam"])
    assert result["switched_on"] == ["compute.googleapis.com", "iam.googleapis.com"], result
    assert not services(endpoint=None, services=["compute", "iam"])["changed"]


def test_a_proxy_whose_authority_is_not_known(rehearsal, services, monkeypatch):
    for name, value in {"HTTPS_PROXY": rehearsal.endpoint, "NO_PROXY": ""}.items():
        monkeypatch.setenv(name, value)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    result = services(endpoint=None, services=["compute"])
    assert result["failed"] and "TLS" in result["msg"] and "REQUESTS_CA_BUNDLE" in result["remedy"]


def test_impersonation(rehearsal, services):
    email = "deployer@rehearsal-project.iam.gserviceaccount.com"
    account = {"name": f"projects/{PROJECT}/serviceAccounts/{email}", "email": email, "projectId": PROJECT, "uniqueId": "1"}
    on = [f"{name}.googleapis.com" for name in (*FRESH, "iamcredentials")]
    rehearsal.seed({"projects": {PROJECT: {"services": on, "serviceAccounts": {email: account}}}})
    result = services(services=["iam"], impersonate=email)
    assert result["failed"] and result["principal"] == "rehearsal@rehearsal-project.iam.gserviceaccount.com"
    member = f"serviceAccount:{result['principal']}"
    assert f"add-iam-policy-binding {email} --member={member} --role=roles/iam.serviceAccountTokenCreator" in result["remedy"]
    account["iamPolicy"] = {"bindings": [{"role": "roles/iam.serviceAccountTokenCreator", "members": [member]}]}
    rehearsal.seed({"projects": {PROJECT: {"serviceAccounts": {email: account}}}})
    result = services(services=["iam"], impersonate=email)
    assert result["switched_on"] == ["iam.googleapis.com"], result["msg"]
    assert {item["principal"] for item in rehearsal.requests("serviceusage.*")} == {email}
