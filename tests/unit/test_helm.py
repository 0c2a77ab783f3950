"""Helm releases: what is read, compared and shown, without a cluster."""

from __future__ import annotations

import base64
import json
import time

import pytest

from ansible_collections.mlops.platform.plugins.module_utils import helm


def revision(number=1, status="deployed", inputs=None, **labels):
    labels = {"version": str(number), "status": status, **labels}
    if inputs:
        labels[helm.INPUTS_LABEL] = inputs
    return helm.Revision({"metadata": {"labels": labels, "creationTimestamp": "2020-01-01T00:00:00Z"}, "data": {}})


@pytest.fixture
def wanted(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("name: x\n")
    (tmp_path / "templates" / "a.yaml").write_text("a")
    return helm.Wanted("x", "ns", str(tmp_path), {"a": 1, "b": 2})


def test_release_data_round_trip():
    release = {"name": "x", "info": {"status": "deployed"}, "manifest": "kind: A\n"}
    assert helm.decode(helm.encode(release)) == release
    plain = base64.b64encode(base64.b64encode(json.dumps(release).encode())).decode()  # helm reads it without gzip, too
    assert helm.decode(plain) == release


def test_digest_depends_on_chart_and_values_only(wanted, tmp_path):
    first = wanted.digest()
    assert len(f"{first}.{10**6}") <= 63  # the limit of a label's value
    assert helm.Wanted("y", "other", str(tmp_path), {"b": 2, "a": 1}).digest() == first
    assert helm.Wanted("x", "ns", str(tmp_path), {"a": 1}).digest() != first
    assert helm.Wanted("x", "ns", str(tmp_path), {"a": "1", "b": 2}).digest() != first
    (tmp_path / "templates" / "a.yaml").rename(tmp_path / "templates" / "b.yaml")
    assert wanted.digest() != first


def test_not_a_chart(tmp_path):
    with pytest.raises(helm.HelmError, match=r"has no Chart\.yaml"):
        helm.Wanted("x", "ns", str(tmp_path / "none")).digest()


def test_label_of_another_revision_does_not_count():
    """A rollback or somebody's own upgrade inherits it."""
    assert revision(3, inputs="abc.3").inputs == "abc"
    assert revision(4, inputs="abc.3").inputs is None
    assert revision(4).inputs is None


@pytest.mark.parametrize(
    ("last", "action", "reason"),
    [
        (None, "installed", "not installed"),
        (revision(status="uninstalled"), "installed", "not installed"),
        (revision(inputs="abc.1"), "unchanged", ""),
        (revision(inputs="abd.1"), "upgraded", "different"),
        (revision(2, inputs="abc.1"), "upgraded", "someone else"),
        (revision(status="failed", inputs="abc.1"), "upgraded", "revision 1 is failed"),
    ],
)
def test_what_is_to_be_done(last, action, reason):
    got = helm.Releases._compare(last, "abc")
    assert got[0] == action and reason in got[1]


def test_age():
    assert revision(modifiedAt=str(int(time.time()) - 100)).age == pytest.approx(100, abs=5)
    assert revision().age > 10**8


@pytest.mark.parametrize(
    ("live", "doc", "same"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": [1, {"b": 1, "c": 2}]}, {"a": [1, {"b": 1}]}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": True}, {"a": 1}, False),
        (None, {"a": 1}, False),
        ({"a": "1000m"}, {"a": "1"}, False),  # the server knows better, and is asked
    ],
)
def test_contains(live, doc, same):
    assert helm.contains(live, doc) is same


def test_what_only_the_old_manifest_has_is_removed():
    live = {"data": {"a": 1, "b": 2, "others": 3}, "list": [{"name": "x", "v": 1, "w": 1}, {"name": "y"}, {"name": "others"}]}
    old = {"data": {"a": 1, "b": 2}, "list": [{"name": "x", "v": 1, "w": 1}, {"name": "y"}]}
    new = {"data": {"a": 1}, "list": [{"name": "x", "v": 1}]}
    assert helm.without_removed(live, old, new) == {
        "data": {"a": 1, "others": 3},
        "list": [{"name": "x", "v": 1}, {"name": "others"}],
    }


def test_first_difference_is_named():
    assert helm._first_difference({"a": [{"b": 1}], "c": 1}, {"a": [{"b": 2}], "c": 1}) == ("a[0].b", 1, 2)
