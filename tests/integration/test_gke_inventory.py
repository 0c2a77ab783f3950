"""inventories/gke as a platform engineer fills it in, against the rehearsal, whose GKE cluster answers as Molecule's kind cluster does.

kind has no controller of GKE's load balancers and not their resource types: stand-ins of tests/gke.py play their parts.
"""

import json
import subprocess

import pytest

from .conftest import ROOT

CLIENT = "123456789012-inventory.apps.googleusercontent.com"
SECRET = "GOCSPX-of-the-inventory-test"


def test_inventory_is_readable(play):
    checked = play("site.yml", "-i", "inventories/gke", "--syntax-check")
    assert checked.code == 0, checked.output
    listed = subprocess.run(["ansible-inventory", "-i", "inventories/gke", "--list"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0, listed.stderr
    variables = json.loads(listed.stdout)["_meta"]["hostvars"]
    assert [host["platform_gcp_project"] for host in variables.values()] == ["my-project"]


@pytest.mark.cluster
def test_from_an_empty_project_to_the_platform(gke, balanced, kubectl):
    gke.knows(CLIENT, SECRET)
    gke.values.update(oauth_iap_client_id=CLIENT, oauth_iap_client_secret=SECRET)
    looked = gke("playbooks/preflight.yml")
    assert looked.code == 0, looked.output
    changing = [request for request in gke.requests() if request["verb"] in ("PUT", "PATCH", "DELETE")]
    assert changing == []

    predicted = gke("site.yml", "--check")
    assert predicted.code == 0, predicted.output
    methods = {request["method"].rpartition(".")[2] for request in gke.requests()}
    assert methods & {"create", "insert", "batchEnable", "setIamPolicy"} == set()

    first = gke("site.yml", "-e", "platform_smoke=false")
    assert first.code == 0, first.output
    assert "gcp_apis speaks to the rehearsal" in first.text
    assert gke.kubeconfig.stat().st_mode & 0o077 == 0
    # the login: the load balancer has the client, and the gateway accepts the tokens that are made out to it
    [backend] = balanced.made.values()
    [rule] = json.loads(kubectl("get", "requestauthentication", "kubeflow-login", "--namespace=istio-ingress", "--output=json"))["spec"][
        "jwtRules"
    ]
    assert rule["audiences"] == [f"/projects/{gke.number}/global/backendServices/{balanced.ids[backend]}"]
    again = gke("site.yml", "-vvv", "--diff", "-e", "platform_smoke=false")
    assert again.code == 0, again.output
    assert again.recap("changed") == 0, again.output
    assert SECRET not in first.output + again.output
