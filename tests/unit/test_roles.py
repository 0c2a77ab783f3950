"""What holds for every role: one shape, options that are documented, defaulted and named after it."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/meta/argument_specs.yml"))
SERVING = [ROOT / "roles" / name for name in ("cert_manager", "istio", "knative", "kserve")]
PREFIXES = {"cert", "istio", "knative", "kserve", "kubeflow", "gcp", "oauth", "mgmt", "gpu", "rehearsal"}
COMMON = {"release", "kubeconfig", "context", "cache_dir", "source", "wait", "timeout"}

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
each_serving_role = pytest.mark.parametrize("role", SERVING, ids=lambda path: path.name)


def load(path):
    return yaml.safe_load(path.read_text()) or {}


def specs(role):
    return load(role / "meta/argument_specs.yml")["argument_specs"]


def test_there_are_roles():
    assert set(SERVING) <= set(ROLES)


@each_role
def test_options_are_the_defaults(role):
    assert set(specs(role)["main"]["options"]) == set(load(role / "defaults/main.yml"))


@each_role
def test_options_are_named_after_the_role(role):
    assert [name for name in specs(role)["main"]["options"] if not name.startswith(f"{role.name}_")] == []


@each_role
def test_options_are_described(role):
    options = specs(role)["main"]["options"]
    assert [name for name, option in options.items() if not option.get("description") or not option.get("type")] == []


@each_role
def test_readme_lists_exactly_the_options(role):
    listed = re.findall(r"^\| `(\w+)` \|", (role / "README.md").read_text(), re.MULTILINE)
    assert listed == list(specs(role)["main"]["options"])


@each_role
def test_internal_variables_are_named_after_the_role(role):
    names = [name for path in role.glob("vars/*.yml") for name in load(path)]
    assert [name for name in names if not re.match(rf"(__)?{role.name}(_|$)", name)] == []


@each_serving_role
def test_serving_roles_have_one_shape(role):
    assert {path.stem for path in (role / "tasks").glob("*.yml")} >= {"main", "validate", "install", "ready"}
    assert specs(role)["validate"]["options"] == specs(role)["main"]["options"]
    assert {f"{role.name}_{name}" for name in COMMON} <= set(specs(role)["main"]["options"])
    assert f"{role.name}_ready_objects" in load(role / "vars/main.yml")


@each_serving_role
def test_tasks_use_only_options_and_internal_variables(role):
    known = set(load(role / "defaults/main.yml")) | set(load(role / "vars/main.yml"))
    text = "\n".join(path.read_text() for path in (role / "tasks").glob("*.yml"))
    known |= set(re.findall(r"register: (\w+)", text)) | set(re.findall(r"^ +(__\w+):", text, re.MULTILINE))
    used = set(re.findall(rf"\b(?:__)?{role.name}_\w+\b", text)) - set(re.findall(r"platform\.(\w+)", text))
    assert used - known == set()


@pytest.mark.parametrize("path", sorted((ROOT / "inventories").glob("*/group_vars/all/*.yml")), ids=lambda path: path.stem)
def test_inventories_set_only_options_that_exist(path):
    options = {name for role in ROLES for name in specs(role)["main"]["options"]}
    names = [name for name in load(path) if name.split("_")[0] in PREFIXES]
    assert set(names) - options == set()


def test_custom_role_has_what_the_cloud_roles_ask_for():
    permission = re.compile(r"\b[a-z]+\.[A-Za-z]+\.[A-Za-z]+\b")
    variables = "".join(
        (ROOT / f"roles/{name}/vars/main.yml").read_text() for name in ("gcp_apis", "oauth_iap", "mgmt_cluster", "gpu_nodes", "kubeflow")
    )
    asked = permission.findall("".join(re.findall(r"^\w*_permissions\w*:.*?(?=^\S|\Z)", variables, re.MULTILINE | re.DOTALL)))
    assert "container.clusters.create" in asked
    assert load(ROOT / "playbooks/files/custom-role.yml")["includedPermissions"] == sorted(set(asked))
