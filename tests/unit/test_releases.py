"""Release sets: every one in releases/ is valid, and faults are named with file and key."""

from __future__ import annotations

import copy
import os

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils import releases

SUM = "a" * 64
GOOD = {
    "name": "x",
    "description": "for the test",
    "verified_on": [],
    "kubernetes": {"version": "1.34.4", "min": "1.29", "max": "1.34"},
    "istio": {
        "version": "1.2.3",
        "artifacts": {
            "one": {"url": "https://example.com/one.yaml", "sha256": None},
            "tree": {"url": "https://example.com", "files": {"a/b": SUM}},
        },
    },
}


@pytest.mark.parametrize("name", releases.known())
def test_every_release_set_in_the_repository_is_valid(name):
    release = releases.load(name)
    assert release["name"] == name
    assert set(releases.KNOWN_COMPONENTS) <= set(release)
    assert {"istio.base", "istio.istiod", "istio.gateway", "cert_manager.manifest"} <= set(releases.artifacts(release))


def test_the_release_sets_that_the_documentation_names_exist():
    assert {"seed", "serving-1.14", "serving-1.15"} <= set(releases.known())


@pytest.mark.parametrize("name", releases.known())
def test_what_is_fetched_does_not_move(name):
    """A branch name in a URL would change its content under the sum."""
    for artifact in releases.artifacts(releases.load(name)).values():
        assert not {"master", "main", "HEAD", "latest"} & set(artifact["url"].split("/"))


@pytest.mark.parametrize("name", releases.known())
def test_charts_are_complete(name):
    for key in ("base", "istiod", "gateway"):
        files = releases.load(name)["istio"]["artifacts"][key]["files"]
        assert {"Chart.yaml", "values.yaml", "templates/zzz_profile.yaml"} <= set(files)
        assert None not in files.values()


def test_unknown_name_lists_the_known_ones_and_the_variable():
    with pytest.raises(releases.ReleaseError, match=r"serving-1\.14.*platform_release"):
        releases.load("nonsense")


def test_a_path_is_read(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(GOOD))
    assert releases.load(str(path)) == GOOD


def test_name_in_the_directory_must_match(tmp_path):
    (tmp_path / "y.yml").write_text(yaml.safe_dump(GOOD))
    with pytest.raises(releases.ReleaseError, match=r"y\.yml.*\n  name: is 'x'"):
        releases.load("y", str(tmp_path))


def test_a_key_written_twice_is_refused(tmp_path):
    (tmp_path / "x.yml").write_text("name: x\nname: x\n")
    with pytest.raises(releases.ReleaseError, match="'name' is written twice"):
        releases.load("x", str(tmp_path))


def test_broken_yaml_names_the_file(tmp_path):
    (tmp_path / "x.yml").write_text("a: [")
    with pytest.raises(releases.ReleaseError, match=r"x\.yml cannot be read"):
        releases.load("x", str(tmp_path))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("kubernetes.min", 1.29, "kubernetes.min: must be a minor version"),
        ("kubernetes.minimum", "1.29", "kubernetes.minimum: is not a known key"),
        ("kubernetes.node_image_digest", "abc", "kubernetes.node_image_digest: must be sha256"),
        ("istio.version", 1.2, "istio.version: must be a string, is a number; write it in quotes: '1.2'"),
        ("istio.artifacts.one.url", "http://example.com", "istio.artifacts.one.url: must be an https"),
        ("istio.artifacts.one.sha256", "abc", "istio.artifacts.one.sha256: must be 64"),
        ("istio.artifacts.one.sha265", SUM, "istio.artifacts.one.sha265: is not a known key"),
        ("istio.artifacts.tree.sha256", SUM, "istio.artifacts.tree.sha256: a tree has a sum a file"),
        ("istio.artifacts.tree.files", {"../up": SUM}, "'../up' is not a plain relative path"),
        ("istio.artifacts.tree.files", {"a": "x"}, "istio.artifacts.tree.files.a: must be 64"),
        ("istio.module", {"path": "a", "version": "v1", "sum": "x"}, "istio.module.sum: must be a Go module sum"),
        ("istoi", "1.2", "istoi: must be a mapping with version and artifacts"),
        ("verified_on", "yes", "verified_on: must be a list"),
    ],
)
def test_faults_are_named(path, value, message):
    release = copy.deepcopy(GOOD)
    target = release
    *parents, last = path.split(".")
    for parent in parents:
        target = target[parent]
    target[last] = value
    assert any(message in problem for problem in releases.validate(release)), releases.validate(release)


def test_all_faults_come_at_once():
    problems = releases.validate({"istio": {}})
    assert len(problems) >= 5


def test_component_that_is_missing():
    with pytest.raises(releases.ReleaseError, match=r"no component 'kserve'; it has: istio\..*platform_release"):
        releases.component(GOOD, "kserve")


def test_the_directory_is_the_one_of_the_checkout():
    assert os.path.isfile(os.path.join(releases.DIRECTORY, "seed.yml"))
