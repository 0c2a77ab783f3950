from __future__ import annotations

import json

import pytest

from ansible_collections.mlops.platform.plugins.module_utils import documents
from ansible_collections.mlops.platform.plugins.module_utils.apply import Outcome, conflicts, content, diff, merge_entries, verdict
from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError
from ansible_collections.mlops.platform.plugins.module_utils.documents import DocumentError


def config_map(name="settings", **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(*containers, name="web"):
    spec = {"template": {"spec": {"containers": list(containers)}}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


# -- load ---------------------------------------------------------------------------------------------------------------


def test_lists_are_flattened_and_empty_documents_skipped(tmp_path):
    file = tmp_path / "all.yaml"
    file.write_text(
        "---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n# nothing\n"
    )
    assert [doc["metadata"]["name"] for doc in documents.load([file], [config_map("b")])] == ["a", "b"]


def test_dates_and_equals_signs_stay_text():
    assert documents.parse("{day: 2024-05-01, op: =}", "x") == [{"day": "2024-05-01", "op": "="}]


def test_bad_yaml_names_file_and_line(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("apiVersion: v1\nkind: [ConfigMap\nmetadata:\n")
    with pytest.raises(DocumentError, match=r"bad\.yaml: line 3, column \d+: "):
        documents.load([file])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DocumentError, match=r"none\.yaml cannot be read: No such file"):
        documents.load([tmp_path / "none.yaml"])


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("{apiVersion: v1, metadata: {name: a}}", "document 1 has no kind"),
        ("{kind: ConfigMap, metadata: {name: a}}", "document 1 has no apiVersion"),
        ("{apiVersion: v1, kind: ConfigMap}", r"document 1 has no metadata\.name"),
        (
            "{apiVersion: v1, kind: ConfigMap, metadata: {generateName: a}}",
            r"document 1 has no metadata\.name \(generateName cannot be applied\)",
        ),
        ("{apiVersion: v1, kind: List, items: [{kind: Pod}]}", "document 1, item 1 has no apiVersion"),
        ("just text", "document 1 is no object but str"),
    ],
)
def test_what_is_no_object_is_named_with_file_and_index(tmp_path, text, lacks):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(DocumentError, match=f"x.yaml, {lacks}"):
        documents.load([file])


def test_the_same_object_twice_names_both_places(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps(config_map(a="1")))
    other = config_map(a="2")
    other["metadata"]["namespace"] = "default"
    with pytest.raises(DocumentError, match=r"ConfigMap default/settings .*x\.yaml, document 1 and documents, item 1"):
        documents.load([file], [other], namespace="default")


def test_equal_repetitions_are_one_object():
    assert documents.load([], [config_map(a="1"), config_map(a="1")]) == [config_map(a="1")]


# -- patches ------------------------------------------------------------------------------------------------------------


def test_merge_patch_deletes_with_null_and_merges_lists_by_name():
    web = {"name": "web", "image": "web:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "args": ["x"]}
    side = {"name": "side", "image": "side:1"}
    change = {
        "containers": [{"name": "web", "image": None, "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}], "args": ["y"]}]
    }
    original = deployment(web, side)
    before = json.dumps(original)
    patch = {"target": {"kind": "Deployment", "name": "w*"}, "merge": {"spec": {"template": {"spec": change}}}}
    patched = documents.patch([original], [patch])[0]
    assert patched["spec"]["template"]["spec"]["containers"] == [
        {"name": "web", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}], "args": ["y"]},
        side,
    ]
    assert json.dumps(original) == before


def test_json_data_merges_into_json_text_and_keeps_it_byte_for_byte_if_equal():
    doc = config_map(ingress='{"a":1,  "b":{"c":2}}', other="x")
    same, new = (
        documents.patch([doc], [{"target": {"kind": "ConfigMap", "name": "settings"}, "json_data": {"ingress": change}}])[0]["data"]
        for change in ({"b": {"c": 2}}, {"b": {"d": True}, "a": None})
    )
    assert same == doc["data"]
    assert json.loads(new["ingress"]) == {"b": {"c": 2, "d": True}}
    assert new["other"] == "x"


def test_json_data_of_what_is_not_json_is_an_error():
    with pytest.raises(DocumentError, match=r"data\.key of ConfigMap settings is not JSON"):
        documents.patch([config_map(key="{")], [{"target": {"kind": "ConfigMap", "name": "*"}, "json_data": {"key": {"a": 1}}}])


def test_a_patch_that_matches_nothing_is_an_error_unless_optional():
    patch = {"target": {"kind": "ConfigMap", "name": "setings"}, "merge": {"data": {"a": "1"}}}
    with pytest.raises(DocumentError, match="ConfigMap setings matches no document. Of this kind there are: settings"):
        documents.patch([config_map()], [patch])
    assert documents.patch([config_map()], [{**patch, "optional": True}]) == [config_map()]


def test_exclude_takes_patterns_and_api_versions():
    docs = [config_map("a"), config_map("ab"), deployment(name="a")]
    assert documents.exclude(docs, [{"kind": "ConfigMap", "name": "a*"}]) == [docs[2]]
    assert documents.exclude(docs, [{"kind": "ConfigMap", "name": "a", "apiVersion": "v2"}]) == docs
    assert documents.exclude(docs, [{"kind": "ConfigMap", "name": "a", "namespace": "x"}]) == docs


def test_images_are_replaced_where_they_are_images_and_nowhere_else():
    docs = [
        deployment({"name": "web:1", "image": "web:1", "args": ["web:1", "--x=web:1"], "env": [{"name": "IMG", "value": "web:1"}]}),
        config_map(whole="web:1", json='{"image": "web:1", "x": "web:12"}', part="see web:1"),
        {"apiVersion": "caching.x.dev/v1", "kind": "Image", "metadata": {"name": "i"}, "spec": {"image": "web:1"}},
        {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "c"}, "image": "web:1"},
    ]
    new = documents.replace_images(docs, {"web:1": "r/web:2"})
    container = new[0]["spec"]["template"]["spec"]["containers"][0]
    assert container == {
        "name": "web:1",
        "image": "r/web:2",
        "args": ["r/web:2", "--x=web:1"],
        "env": [{"name": "IMG", "value": "r/web:2"}],
    }
    assert new[1]["data"] == {"whole": "r/web:2", "json": '{"image": "r/web:2", "x": "web:12"}', "part": "see web:1"}
    assert new[2]["spec"] == {"image": "r/web:2"}
    assert new[3] == docs[3]


def test_phases():
    docs = [
        {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}
        for version, kind in [
            ("serving.kserve.io/v1alpha1", "ClusterServingRuntime"),
            ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
            ("apps/v1", "Deployment"),
            ("rbac.authorization.k8s.io/v1", "Role"),
            ("v1", "Secret"),
            ("v1", "Namespace"),
            ("serving.knative.dev/v1", "Service"),
            ("gateway.networking.k8s.io/v1", "HTTPRoute"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ]
    ]
    assert [[doc["kind"] for doc in group] for group in documents.phases(docs)] == [
        ["CustomResourceDefinition"],
        ["Namespace"],
        ["Role", "Secret", "Deployment"],
        ["ValidatingWebhookConfiguration"],
        ["ClusterServingRuntime", "Service", "HTTPRoute"],
    ]


# -- fields of conflicts ------------------------------------------------------------------------------------------------

WEBHOOK = {"webhooks": [{"name": "y", "rules": [1]}, {"name": 'x"]', "rules": [2], "timeout": 3}]}


@pytest.mark.parametrize(
    ("doc", "path", "left"),
    [
        (WEBHOOK, '.webhooks[name="x\\"]"].rules', {"webhooks": [{"name": "y", "rules": [1]}, {"name": 'x"]', "timeout": 3}]}),
        ({"m": {"app.kubernetes.io/name": "a", "app": {"b": 1}}}, ".m.app.kubernetes.io/name", {"m": {"app": {"b": 1}}}),
        ({"m": {"a.b": 1, "a": {"b": 2, "c": 3}}}, ".m.a.b", {"m": {"a": {"b": 2, "c": 3}}}),
        ({"m": {"a": {"b": 2, "c": 3}}}, ".m.a.b", {"m": {"a": {"c": 3}}}),
        ({"data": {"key[0]": "x", "k": "y"}}, ".data.key[0]", {"data": {"k": "y"}}),
        ({"p": [{"port": 80, "name": "a"}]}, '.p[port=80,protocol="TCP"].name', {"p": [{"port": 80}]}),
        ({"p": [{"port": 80, "protocol": "UDP", "name": "a"}]}, '.p[port=80,protocol="TCP"].name', None),
        ({"f": ["a", "b"]}, '.f[="a"]', {"f": ["b"]}),
        ({"f": ["a", "b"]}, ".f[1]", {"f": ["a"]}),
        ({"s": {"replicas": 1}, "x": 1}, ".s.replicas", {"x": 1}),
        ({"s": {"replicas": 1}}, ".s.other", None),
        ({"s": "text"}, ".s.other", None),
    ],
)
def test_a_contested_field_is_found_and_removed(doc, path, left):
    pruned = json.loads(json.dumps(doc))
    assert documents.prune_field(pruned, path) is (left is not None)
    assert pruned == (doc if left is None else left)


@pytest.mark.parametrize(
    ("manager", "applies", "force", "expected"),
    [
        ("kubectl-edit", False, [], "take"),
        ("kubectl", True, [], "take"),
        ("k9s", False, [], "take"),
        ("OpenLens", False, [], "take"),
        ("before-first-apply", False, [], "take"),
        ("helm", False, [], "refuse"),
        ("helm", False, ["helm"], "take"),
        ("argocd-controller", True, [], "refuse"),
        ("Terraform", False, [], "refuse"),
        ("kustomize-controller", False, [], "refuse"),
        ("mlops-platform-istio", True, [], "refuse"),
        ("some-apply-tool", True, [], "refuse"),
        ("some-apply-tool", True, ["some-*"], "take"),
        ("webhook", False, [], "leave"),
        ("kube-controller-manager", False, [], "leave"),
        ("cainjector", False, [], "leave"),
    ],
)
def test_whose_field_it_is(manager, applies, force, expected):
    assert verdict(manager, applies, force) == expected


def test_conflicts_tell_managers_that_apply_from_those_that_update():
    messages = [
        'conflict with "kubectl-edit" using apps/v1 at 2026-01-01T00:00:00Z',
        'conflict with "argo" with subresource "scale"',
        'conflict with "a\\"b"',
    ]
    causes = [{"reason": "FieldManagerConflict", "message": message, "field": f".f{index}"} for index, message in enumerate(messages)]
    found = conflicts(ApiError(409, "Conflict", "", {"causes": causes}))
    assert found == [("kubectl-edit", False, ".f0"), ("argo", True, ".f1"), ('a"b', True, ".f2")]
    assert conflicts(ApiError(409, "Conflict", "the object has been modified")) == []


# -- nothing to do ------------------------------------------------------------------------------------------------------


def applied(value=None, fields=None):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a", "managedFields": [{"manager": "me", "operation": "Apply", "apiVersion": "v1", "fieldsV1": fields}]},
        **(value or {}),
    }


@pytest.mark.parametrize(
    ("body", "live", "fields", "expected"),
    [
        ({"data": {"a": "1"}}, {"data": {"a": "1", "b": "theirs"}}, {"f:data": {"f:a": {}}}, True),
        ({"data": {"a": "1"}}, {"data": {"a": "2"}}, {"f:data": {"f:a": {}}}, False),  # another value
        ({"data": {"a": "1"}}, {"data": {"a": "1", "b": "2"}}, {"f:data": {"f:a": {}, "f:b": {}}}, False),  # b is to be removed
        ({"data": {"a": "1"}}, {"data": {"a": "1"}}, {"f:data": {}}, True),  # owned as a whole
        ({"data": {"a": "1"}}, {"data": {"a": "1"}}, {"f:data": {".": {}}}, False),  # somebody else's value
        ({"data": {}}, {"data": {}}, {"f:data": {".": {}}}, True),
        ({"n": 1}, {"n": True}, {"f:n": {}}, False),
        (
            {"l": [{"name": "x", "v": 1}]},
            {"l": [{"name": "x", "v": 1}]},
            {"f:l": {'k:{"name":"x"}': {".": {}, "f:name": {}, "f:v": {}}}},
            True,
        ),
        ({"l": [{"name": "x", "v": 1}]}, {"l": [{"name": "x", "v": 1}]}, {"f:l": {'k:{"name":"x"}': {".": {}, "f:name": {}}}}, False),
        ({"l": ["x"]}, {"l": ["x"]}, {"f:l": {'v:"x"': {}}}, True),
        ({"l": ["x"]}, {"l": ["x", "y"]}, {"f:l": {'v:"x"': {}}}, False),
        ({"l": ["x"]}, {"l": ["x"]}, {"f:l": {'v:"x"': {}, 'v:"y"': {}}}, False),
    ],
)
def test_only_what_certainly_changes_nothing_is_spared_the_server(body, live, fields, expected):
    doc = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, **body}
    assert documents.is_applied(doc, applied(live, fields), "me") is expected


def test_other_managers_and_versions_prove_nothing():
    doc = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "1"}}
    live = applied({"data": {"a": "1"}}, {"f:data": {"f:a": {}}})
    assert documents.is_applied(doc, live, "me")
    assert not documents.is_applied(doc, live, "you")
    live["metadata"]["managedFields"][0]["operation"] = "Update"
    assert not documents.is_applied(doc, live, "me")


# -- contents -----------------------------------------------------------------------------------------------------------


def test_contents_are_without_status_and_bookkeeping():
    obj = {**config_map(a="1"), "status": {"x": 1}}
    obj["metadata"] |= {"resourceVersion": "7", "uid": "u", "managedFields": [], "generation": 2, "creationTimestamp": "now"}
    assert content(obj) == config_map(a="1")


def test_a_diff_hides_what_is_in_a_secret_but_shows_which_key_changes():
    def secret(**data):
        annotations = {"kubectl.kubernetes.io/last-applied-configuration": "s3cret", "x": "y"}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "annotations": annotations}, "data": data}

    old, new = secret(a="czNjcmV0", b="c2FtZQ=="), secret(a="bmV3", b="c2FtZQ==")
    shown = diff(Outcome(new, "configured", old, new))
    assert not any(value in str(shown) for value in ("s3cret", "czNjcmV0", "bmV3", "c2FtZQ=="))
    assert [line.strip() for line in shown["after"].splitlines() if "hidden" in line] == ["a: (hidden, changed)", "b: (hidden)"]
    assert [line.strip() for line in shown["before"].splitlines() if "hidden" in line] == ["a: (hidden)", "b: (hidden)"]


def test_inventory_entries_know_an_object_under_a_new_api_version():
    old = {**config_map("a"), "apiVersion": "x.dev/v1alpha1"}
    new = {**config_map("a", k="v"), "apiVersion": "x.dev/v1"}
    assert merge_entries([old], [new]) == [{"apiVersion": "x.dev/v1", "kind": "ConfigMap", "metadata": {"name": "a"}}]
