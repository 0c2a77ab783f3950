import copy
import pathlib

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils import releases
from ansible_collections.mlops.platform.plugins.module_utils.mirror import builder as builder_module
from ansible_collections.mlops.platform.plugins.module_utils.mirror import docker, node
from ansible_collections.mlops.platform.plugins.module_utils.mirror.builder import Builder, DataError, for_version
from ansible_collections.mlops.platform.plugins.module_utils.mirror.engine import Engine, StepError
from ansible_collections.mlops.platform.plugins.module_utils.mirror.oci import Layout

ROLE = pathlib.Path(__file__).parents[2] / "roles/mirror"
VARIABLES = yaml.safe_load((ROLE / "vars/main.yml").read_text())
COMPONENTS = yaml.safe_load((ROLE / "vars/components.yml").read_text())["mirror_components"]
NAMES = ("kubernetes", "tools", "registry", "bases", "wheels", "node_packages", "suite", "python", "go_minimum")


@pytest.fixture
def configuration(tmp_path):
    return copy.deepcopy(
        {
            **{name: VARIABLES[f"mirror_{name}"] for name in NAMES},
            "components": COMPONENTS,
            "files": str(ROLE / "files"),
            "cache_dir": str(tmp_path),
            "releases": [releases.load("serving-1.14")],
        }
    )


def planned(configuration):
    built = Builder(configuration)
    return built, {step.name: step for step in built.plan()}


def test_role_passes_everything_that_the_builder_wants(configuration):
    task = yaml.safe_load((ROLE / "tasks/main.yml").read_text())[-1]["mlops.platform.mirror_build"]
    assert set(configuration) <= set(task)


@pytest.mark.parametrize("names", [["serving-1.14"], ["serving-1.15"], ["serving-1.14", "serving-1.15"]])
def test_shipped_data_makes_a_plan(configuration, tmp_path, names):
    built, steps = planned({**configuration, "releases": [releases.load(name) for name in names]})
    assert Engine(tmp_path / "mirror").plan(list(steps.values()))
    assert {"registry", "index", "node image mlops-platform/node:v1.34.4"} <= set(steps)
    assert len([step for step in steps if step.startswith("programs knative-")]) == len(names)
    assert len([step for step in steps if step.startswith("programs istio-")]) == 1


def test_only_what_the_release_sets_need_is_built(configuration):
    _, steps = planned({**configuration, "releases": [releases.load("serving-1.14")]})
    assert "programs kserve-0.8.0" in steps and not any("0.15" in step for step in steps)


def test_kubernetes_comes_first_and_node_images_stand_alone(configuration):
    built, steps = planned(configuration)
    assert next(step for step in steps if step.startswith("programs")) == "programs kubernetes-1.34.4"
    needed, waiting = set(), ["node image mlops-platform/node:v1.34.4"]
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting += [other for other in steps[name].after if other not in needed]
    assert not any(part in name for name in needed for part in ("istio", "kserve", "knative", "cert_manager"))


def test_version_rules():
    recipe = {
        "ldflags": "-X version=v{version}",
        "programs": ["a", {"package": "b", "since": "0.15"}],
        "images": [{"names": ["x:v{version}"], "stand_in": "text"}, {"names": ["y"], "since": "0.15"}],
    }
    old, new = for_version(recipe, "v0.8.0"), for_version(recipe, "0.15.2")
    assert (old["ldflags"], new["ldflags"]) == ("-X version=v0.8.0", "-X version=v0.15.2")
    assert old["programs"] == ["a"] and old["images"] == [{"names": ["x:v0.8.0"]}]
    assert len(new["programs"]) == 2 and [image["names"] for image in new["images"]] == [["x:v0.15.2"], ["y"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["releases"][0]["kubernetes"].update(version="1.99.0"), "how to build Kubernetes 1.99.0"),
        (lambda c: c["releases"][0]["kserve"].update(module=None), "release set serving-1.14 names no module for kserve"),
        (lambda c: c["components"]["kserve"]["images"][0].update(program="nothing"), "kserve has no program nothing"),
        (lambda c: c["components"]["kserve"]["images"][0].update(base="nothing"), "there is no base nothing"),
        (lambda c: c["components"]["kserve"]["images"][0].update(files=[{"src": "nothing", "dest": "/x"}]), "files/nothing does not exist"),
        (lambda c: c["components"]["kserve"]["images"][0].update(names=["registry.k8s.io/pause:3.10.1"]), "is the name of two images"),
    ],
)
def test_data_that_does_not_fit_is_named(configuration, change, message):
    change(configuration)
    with pytest.raises(DataError, match=message):
        planned(configuration)


def small(configuration, monkeypatch, content="1"):
    """One image without programs; nothing of the machine is asked."""
    loaded = []
    monkeypatch.setattr(docker, "load", lambda job, layout, name, descriptor: loaded.append(name))
    monkeypatch.setattr(docker, "run_registry", lambda job, *arguments: loaded.append("run"))
    monkeypatch.setattr(docker, "container_runs", lambda name, key: "run" in loaded)
    plain = {
        "images": [
            {
                "names": ["a/x:{version}"],
                "base": "none",
                "path": "/x",
                "user": 7,
                "files": [{"content": content, "dest": "/etc/x", "mode": "0600"}],
            }
        ]
    }
    release = {
        "name": "r",
        "kubernetes": {"version": "1.0.0"},
        "thing": {"version": "1", "module": {"path": "m", "version": "v1", "sum": "h1:"}},
    }
    return {
        **configuration,
        "releases": [release],
        "kubernetes": {"1.0.0": {"kubernetes": {"version": "1.0.0"}, "crictl": {"version": "1"}}},
        "bases": {"none": {}},
        "tools": {"kind": {"version": "1", "module": {"path": "k", "version": "v1", "sum": "h1:"}}},
        "components": {"thing": plain},
        "registry": {
            "version": "1",
            "images": [{"names": ["docker.io/reg:{version}"], "base": "none", "files": [{"src": "registry/serve.py", "dest": "/s"}]}],
        },
    }, loaded


def run(configuration, tmp_path):
    steps = [step for step in Builder(configuration).plan() if "node" not in step.name]
    return [step["name"] for step in Engine(tmp_path / "mirror", lambda line: None).run(steps)]


def test_images_are_built_named_and_served_once(configuration, tmp_path, monkeypatch):
    configuration, loaded = small(configuration, monkeypatch)
    assert run(configuration, tmp_path)[-1] == "registry"
    layout = Layout(tmp_path / "mirror/oci")
    assert set(layout.names()) == {"a/x:1", "docker.io/reg:1"}
    config = layout.json(layout.json(layout.names()["a/x:1"]["digest"])["config"]["digest"])["config"]
    assert config["User"] == "7" and config["Entrypoint"] == ["/x"]
    assert loaded == ["reg:1", "run"]
    assert run(configuration, tmp_path) == []


def test_changed_recipe_builds_its_image_alone(configuration, tmp_path, monkeypatch):
    first, _ = small(configuration, monkeypatch)
    run(first, tmp_path)
    before = Layout(tmp_path / "mirror/oci").names()
    second, loaded = small(configuration, monkeypatch, "2")
    loaded.append("run")
    assert [name for name in run(second, tmp_path) if name.startswith("image")] == ["image a/x:1"]
    after = Layout(tmp_path / "mirror/oci").names()
    assert before["a/x:1"] != after["a/x:1"] and before["docker.io/reg:1"] == after["docker.io/reg:1"]


def test_removed_blob_is_made_again(configuration, tmp_path, monkeypatch):
    configuration, loaded = small(configuration, monkeypatch)
    run(configuration, tmp_path)
    layout = Layout(tmp_path / "mirror/oci")
    layout.blob(layout.json(layout.names()["a/x:1"]["digest"])["layers"][0]["digest"]).unlink()
    assert "image a/x:1" in run(configuration, tmp_path)
    assert run(configuration, tmp_path) == []


def test_links_are_turned_at_once(tmp_path):
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        builder_module._link(tmp_path / "bin/tool", tmp_path / version)
    assert (tmp_path / "bin/tool").readlink() == pathlib.Path("../2")


def kind_sources(path):
    files = {
        "etc/containerd/config.toml": "restrict_oom_score_adj = false\n",
        "etc/systemd/system/containerd.service": "ExecStart=/usr/local/bin/containerd\n",
        "kind/bin/mount-product-files.sh": "",
        "usr/local/bin/entrypoint": "",
        "usr/local/bin/clean-install": "",
        "LICENSES/README.txt": "",
    }
    for name, text in files.items():
        file = path / node.KIND_FILES / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def node_tree(tmp_path):
    tree = tmp_path / "tree"
    for name in node.CNI_PLUGINS:
        (tree / "usr/lib/cni").mkdir(parents=True, exist_ok=True)
        (tree / "usr/lib/cni" / name).write_text(name)
    return tree


def test_node_gets_kinds_files_and_the_roles(tmp_path):
    tree = node_tree(tmp_path)
    node.add_kind_files(tree, kind_sources(tmp_path / "kind"), ROLE / "files/node")
    assert "/usr/bin/containerd" in (tree / "etc/systemd/system/containerd.service").read_text()
    config = (tree / "etc/containerd/config.toml").read_text()
    assert "restrict_oom_score_adj = true" in config and 'config_path = "/etc/containerd/certs.d"' in config
    assert builder_module.REGISTRY in (tree / "etc/containerd/certs.d/_default/hosts.toml").read_text()
    for name in ("usr/local/bin/entrypoint", "kind/bin/mount-product-files.sh", "usr/local/sbin/runc", "opt/cni/bin/bridge"):
        assert (tree / name).stat().st_mode & 0o111
    assert not (tree / "LICENSES").exists() and not (tree / "usr/local/bin/clean-install").exists()


def test_changed_files_of_kind_are_noticed(tmp_path):
    kind = kind_sources(tmp_path / "kind")
    (kind / node.KIND_FILES / "etc/containerd/config.toml").write_text("nothing of that\n")
    with pytest.raises(StepError, match="kind's files have changed"):
        node.add_kind_files(node_tree(tmp_path), kind, ROLE / "files/node")


def test_base_specification_has_kinds_hook_and_no_limits():
    text = node.base_specification('{"process": {"rlimits": [1], "args": []}}')
    assert "rlimits" not in text and "mount-product-files.sh" in text


def test_manifests_of_storage_name_images_of_the_node():
    names = {
        name
        for recipe in VARIABLES["mirror_kubernetes"]["1.34.4"].values()
        for image in recipe.get("images", [])
        if image.get("node")
        for name in image["names"]
    }
    text = (ROLE / "files/node/default-storage.yaml").read_text()
    assert {line.split()[-1] for line in text.splitlines() if "image:" in line} <= names
