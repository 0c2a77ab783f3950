"""All of a Kubeflow against a real API server: accepted, unchanged when applied again, and each component taken away for itself.

No controller runs beside it, so nothing starts: this shows that the documents are valid, and that what is pruned is exact.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.mlops.platform.plugins.filter.component_plan import component_plan
from ansible_collections.mlops.platform.plugins.module_utils import apply as logic
from ansible_collections.mlops.platform.plugins.module_utils import documents
from ansible_collections.mlops.platform.plugins.modules import k8s_apply

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubeflow"}}
# of what other roles install, the definitions are needed
DEFINITIONS = ("istio-1.30.3/charts/base/files/crd-all.gen.yaml", "cert-manager-1.14.5/cert-manager.yaml")


@pytest.fixture
def catalog(kubeflow_components, kubeflow_version):
    return kubeflow_components["__kubeflow_catalogs"][kubeflow_version]


@pytest.fixture
def kubeflow(api_server, cluster, catalog, kubeflow_files, capsys):
    """Apply components as the role does; returns the module's result."""
    upstream = Path(os.environ["MLOPS_PLATFORM_UPSTREAM"])
    found = documents.load([str(upstream / file) for file in DEFINITIONS])
    logic.apply(cluster, [doc for doc in found if documents.is_crd(doc)], "other-roles")
    secrets = {name: dict.fromkeys(keys, "of-the-test") for part in catalog.values() for name, keys in part.get("secrets", {}).items()}

    def run(components):
        plan = component_plan(components, catalog, "kubeflow", secrets)
        args = {
            "kubeconfig": api_server, "set": "kubeflow", "set_namespace": "kubeflow", "prune": True, "prune_data": "unused", "timeout": 60,
            "files": [kubeflow_files[name] for name in components], "documents": [NAMESPACE],
            "exclude": plan["exclude"], "secrets": json.dumps(plan["secrets"]),
        }  # fmt: skip
        with patch_module_args(args), pytest.raises(SystemExit):
            k8s_apply.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def identity(doc):
    """Group, kind and name: some manifests give a namespace to what has none. All namespaced objects are in one."""
    group, kind, _namespace, name = documents.key(doc)
    return group, kind, name


@pytest.fixture
def contents(cluster):
    """What the cluster has of the objects that a result names: uid and content by identity."""

    def read(result):
        names = ((entry["apiVersion"], entry["kind"], entry["name"], entry["namespace"] or None) for entry in result["objects"])
        return {identity(live): (live["metadata"]["uid"], logic.content(live)) for live in (cluster.get(*name) for name in names) if live}

    return read


def actions(result):
    assert not result.get("failed"), result["msg"]
    return {entry["action"] for entry in result["objects"]}


def test_everything_is_accepted_and_components_go_for_themselves(kubeflow, contents, catalog, kubeflow_files):
    everything = kubeflow(list(catalog))
    assert actions(everything) == {"created"}
    assert actions(kubeflow(list(catalog))) == {"unchanged"}
    before = contents(everything)
    assert len(before) == len(everything["objects"]) > 250

    needed = {need for part in catalog.values() for need in part.get("needs", [])}
    for name in sorted(set(catalog) - needed):
        own = {identity(doc) for doc in documents.load([kubeflow_files[name]]) if doc["kind"] != "PersistentVolumeClaim"}
        assert actions(kubeflow([other for other in catalog if other != name])) == {"unchanged", "deleted"}
        assert contents(everything) == {key: value for key, value in before.items() if key not in own}, name
        assert actions(kubeflow(list(catalog))) == {"unchanged", "created"}
        again = contents(everything)
        assert set(again) == set(before)
        assert {key: again[key] for key in again if key not in own} == {key: before[key] for key in before if key not in own}
        before = again
