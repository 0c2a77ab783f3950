"""k8s_apply against a real API server. No controller runs beside it: what controllers and people do, the tests do in their name."""

from __future__ import annotations

import base64
import copy
import datetime
import http.server
import ipaddress
import json
import ssl
import threading
import time
import uuid

import pytest
from ansible.module_utils.testing import patch_module_args
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.mlops.platform.plugins.module_utils import apply as logic
from ansible_collections.mlops.platform.plugins.module_utils.apply import ApplyError, Inventory
from ansible_collections.mlops.platform.plugins.modules import k8s_apply

MANAGER = "mlops-platform-test"
MERGE_PATCH = "application/merge-patch+json"


@pytest.fixture
def namespace(cluster):
    """A namespace of the test's own."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.apply(a_namespace(name), "test")
    return name


@pytest.fixture
def put(cluster, namespace):
    """Apply documents in the test's namespace."""

    def run(*docs, **options):
        return logic.apply(cluster, list(docs), MANAGER, namespace=namespace, **{"timeout": 10, **options})

    return run


@pytest.fixture
def edit(cluster, namespace):
    """Change an object as some field manager does that updates."""

    def run(manager, doc, change, subresource=""):
        path = cluster.resource(doc["apiVersion"], doc["kind"]).path(namespace, doc["metadata"]["name"])
        return cluster.request("PATCH", path + subresource, {"fieldManager": manager}, change, MERGE_PATCH)[1]

    return run


@pytest.fixture
def live(cluster, namespace):
    """Read an object of the test's namespace."""
    return lambda doc: cluster.get(doc["apiVersion"], doc["kind"], doc["metadata"]["name"], namespace)


def a_namespace(name):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def config_map(name="settings", namespace=None, labels=None, **data):
    meta = {"name": name, **({"namespace": namespace} if namespace else {}), **({"labels": labels} if labels else {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, **({"data": data} if data else {})}


def secret(**data):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "credentials"}, "stringData": data}


def deployment(replicas=1, **container):
    labels = {"app": "web"}
    containers = [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80}], **container}]
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def crd(kind="Gadget", group=None, scope="Namespaced", **properties):
    group, plural = group or f"g{uuid.uuid4().hex[:8]}.test", f"{kind.lower()}s"
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": properties or {"size": {"type": "integer"}}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "names": names, "scope": scope, "versions": [version]},
    }


def custom(definition, name="one", **spec):
    version = f"{definition['spec']['group']}/v1"
    return {"apiVersion": version, "kind": definition["spec"]["names"]["kind"], "metadata": {"name": name}, "spec": spec or {"size": 1}}


def actions(report):
    return {outcome.doc["metadata"]["name"]: outcome.action for outcome in report.outcomes}


# -- created, unchanged, predicted --------------------------------------------------------------------------------------


def test_a_batch_from_nothing_is_predicted_applied_and_then_unchanged(cluster):
    definition, home = crd(), f"t-{uuid.uuid4().hex[:8]}"
    docs = [custom(definition), deployment(), secret(token="s3cret"), config_map(a="1"), a_namespace(home), definition]

    def run(**options):
        return logic.apply(
            cluster, docs, MANAGER, namespace=home, inventory=Inventory(cluster, "test", home), prune=True, timeout=20, **options
        )

    predicted = run(dry_run=True)
    assert set(actions(predicted).values()) == {"created"}
    assert predicted.warnings == []
    assert cluster.get("v1", "Namespace", home) is None

    real = run()
    assert real.result() == predicted.result()
    assert real.diff() == predicted.diff()
    assert "s3cret" not in str(real.diff())
    assert [outcome.doc["kind"] for outcome in real.outcomes][:2] == ["Namespace", "CustomResourceDefinition"]
    assert real.outcomes[-1].doc["kind"] == "Gadget"

    for dry_run in (False, True):
        again = run(dry_run=dry_run)
        assert (again.changed, again.diff(), len(again.outcomes)) == (False, [], len(docs))


def test_a_rerun_reads_and_writes_nothing_it_can_prove_to_be_there(put, cluster):
    docs = [config_map(f"c{number}", labels={"x": "y"}, a="1") for number in range(5)] + [crd(group="proven.test")]
    put(*docs)
    sent, request = [], cluster.request
    cluster.request = lambda method, *rest, **more: (sent.append(method), request(method, *rest, **more))[1]
    assert not put(*docs).changed
    assert set(sent) == {"GET"}


def test_objects_of_no_kind_are_cluster_wide_whatever_namespace_they_name(put, cluster):
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "t:x", "namespace": "odd"},
        "rules": [],
    }
    assert put(role).result()["objects"][0]["namespace"] == ""
    assert cluster.delete(role["apiVersion"], "ClusterRole", "t:x")


def test_a_new_field_of_the_definition_in_the_same_batch_can_be_checked(put):
    old = crd()
    put(old, custom(old))
    new = crd(group=old["spec"]["group"], size={"type": "integer"}, colour={"type": "string"})
    docs = [new, custom(new, size=1, colour="red")]
    assert set(actions(put(*docs, dry_run=True)).values()) <= {"configured", "unchanged"}
    assert set(actions(put(*docs)).values()) == {"configured"}


def test_unknown_fields_are_refused(put):
    with pytest.raises(ApplyError, match=r'ConfigMap t-\w+/settings: .*unknown field "dta"|dta.*field not declared'):
        put({**config_map(), "dta": {"a": "1"}})


# -- ownership ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", ["kubectl-edit", "kubectl-patch", "kubectl-client-side-apply", "k9s"])
def test_what_a_person_changed_is_repaired_and_reported_once(put, edit, live, manager):
    docs = [deployment(), config_map("other", a="1")]
    put(*docs)
    container = {"name": "web", "image": "web:evil", "ports": [{"containerPort": 80}]}
    edit(manager, docs[0], {"spec": {"template": {"spec": {"containers": [container]}}}})
    predicted, real = put(*docs, dry_run=True), put(*docs)
    assert actions(real) == {"web": "configured", "other": "unchanged"}
    assert real.diff() == predicted.diff()
    (change,) = real.diff()
    before, after = ({line.strip(" -") for line in change[side].splitlines()} for side in ("before", "after"))
    assert (before - after, after - before) == ({"image: web:evil"}, {"image: web:1"})
    assert live(docs[0])["spec"]["template"]["spec"]["containers"][0]["image"] == "web:1"
    assert not put(*docs).changed


def test_a_server_side_kubectl_apply_is_repaired_too(put, cluster, live):
    doc = config_map(a="1")
    put(doc)
    theirs = config_map(a="2")
    theirs["metadata"]["namespace"] = live(doc)["metadata"]["namespace"]
    cluster.apply(theirs, "kubectl", force=True)
    assert actions(put(doc)) == {"settings": "configured"}
    assert live(doc)["data"] == {"a": "1"}
    assert not put(doc).changed


def test_what_a_person_removed_comes_back_and_what_they_added_stays(put, edit, live):
    doc = config_map(labels={"ours": "x"}, a="1")
    put(doc)
    edit("kubectl-edit", doc, {"metadata": {"labels": {"ours": None, "theirs": "y"}}, "data": {"b": "2"}})
    assert actions(put(doc)) == {"settings": "configured"}
    found = live(doc)
    assert (found["metadata"]["labels"], found["data"]) == ({"ours": "x", "theirs": "y"}, {"a": "1", "b": "2"})


def test_what_the_documents_no_longer_have_is_removed(put, live):
    put(config_map(a="1", b="2"))
    assert actions(put(config_map(a="1"))) == {"settings": "configured"}
    assert live(config_map())["data"] == {"a": "1"}


def a_webhook(name, group="", resource="configmaps", **client):
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource]}
    hook = {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "rules": [rule],
        "timeoutSeconds": 1,
        "objectSelector": {"matchLabels": {"webhook": name}},
        "clientConfig": client or {"url": "https://127.0.0.1:9"},
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    return {**kind, "metadata": {"name": name}, "webhooks": [hook]}


def test_a_field_that_a_controller_changed_is_left_to_it(put, edit, cluster):
    doc = a_webhook("rules.hook.test")
    put(doc)
    theirs = copy.deepcopy(doc["webhooks"])
    theirs[0]["rules"][0]["operations"] = ["DELETE"]
    edit("webhook", doc, {"webhooks": theirs})
    left = {
        "object": "ValidatingWebhookConfiguration rules.hook.test",
        "fields": ['.webhooks[name="rules.hook.test"].rules'],
        "manager": "webhook",
    }
    for dry_run in (True, False, False):
        report = put(doc, dry_run=dry_run)
        assert (report.changed, report.result()["left"]) == (False, [left])
    # the rest of the object is still ours
    doc["webhooks"][0]["timeoutSeconds"] = 2
    assert put(doc).result()["objects"][0]["action"] == "configured"
    hook = cluster.get(doc["apiVersion"], doc["kind"], "rules.hook.test")["webhooks"][0]
    assert (hook["timeoutSeconds"], hook["rules"][0]["operations"]) == (2, ["DELETE"])
    # and a person who meddles with it does not win by the controller's presence
    edit("kubectl-edit", doc, {"metadata": {"labels": {"x": "y"}}, "webhooks": [{**theirs[0], "timeoutSeconds": 9}]})
    report = put(doc)
    assert report.changed
    assert cluster.get(doc["apiVersion"], doc["kind"], "rules.hook.test")["webhooks"][0]["timeoutSeconds"] == 2
    assert not put(doc).changed


def test_the_rules_of_an_aggregated_role_belong_to_its_controller(put, cluster, namespace):
    rule = {"clusterRoleSelectors": [{"matchLabels": {"test": namespace}}]}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": namespace},
        "aggregationRule": rule,
        "rules": [],
    }
    put(role)
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    cluster.apply({**role, "rules": rules}, "clusterrole-aggregation-controller", force=True)
    again = put(role)
    assert (again.changed, again.result()["left"]) == (False, [])
    assert cluster.get(role["apiVersion"], "ClusterRole", namespace)["rules"] == rules


def test_replicas_belong_to_the_autoscaler_that_changed_them_but_not_to_a_person(put, edit, live):
    doc = deployment(replicas=1)
    put(doc)
    edit("kube-controller-manager", doc, {"spec": {"replicas": 5}}, "/scale")
    report = put(doc)
    assert (report.changed, report.result()["left"][0]["fields"]) == (False, [".spec.replicas"])
    edit("kubectl", doc, {"spec": {"replicas": 7}}, "/scale")
    assert put(doc).changed
    assert live(doc)["spec"]["replicas"] == 1


def test_another_declarative_owner_is_an_error_until_it_is_taken_over(put, edit, live):
    doc = config_map(a="1")
    put(doc)
    edit("helm", doc, {"data": {"a": "helm's"}})
    for dry_run in (True, False):
        with pytest.raises(ApplyError) as error:
            put(doc, dry_run=dry_run)
        assert all(word in str(error.value) for word in ("ConfigMap", MANAGER, "helm owns .data.a", "force_managers: [helm]"))
    assert live(doc)["data"] == {"a": "helm's"}
    assert actions(put(doc, force_managers=["helm"])) == {"settings": "configured"}
    assert not put(doc).changed


def test_a_write_in_between_is_not_counted_as_ours(put, edit, cluster):
    doc = config_map(a="1")
    put(doc)
    edit("kubectl-edit", doc, {"data": {"a": "2"}})
    write, racing = cluster.apply, [True]

    def apply(*args, **options):
        if racing.pop() if racing else False:
            edit("controller", doc, {"data": {"theirs": "x"}})
        return write(*args, **options)

    cluster.apply = apply
    (change,) = put(doc).diff()
    assert not racing
    assert set(change["before"].splitlines()) - set(change["after"].splitlines()) == {"  a: '2'"}
    assert set(change["after"].splitlines()) - set(change["before"].splitlines()) == {"  a: '1'"}


def test_compare_finds_drift_of_what_helm_installed_and_writes_nothing(cluster, namespace, edit, live):
    docs = [config_map("one", a="1"), deployment()]
    for doc in docs:
        path = cluster.resource(doc["apiVersion"], doc["kind"]).path(namespace)
        cluster.request("POST", path, {"fieldManager": "helm"}, doc)

    def compare():
        return logic.compare(cluster, docs, "mlops-platform-helm", namespace=namespace, force_managers=["helm"])

    assert compare().drift == []
    edit("istiod", docs[0], {"data": {"a": "controller's"}})
    assert [outcome.left[0]["manager"] for outcome in compare().outcomes if outcome.left] == ["istiod"]
    assert not compare().changed
    edit("kubectl-edit", docs[0], {"data": {"a": "mine"}})
    cluster.delete("apps/v1", "Deployment", "web", namespace)
    assert actions(compare()) == {"one": "configured", "web": "created"}
    assert live(docs[0])["data"] == {"a": "mine"}
    assert "mlops-platform-helm" not in str(live(docs[0])["metadata"]["managedFields"])


# -- errors -------------------------------------------------------------------------------------------------------------


def test_a_missing_namespace_is_an_error_before_anything_is_written_and_a_warning_in_check_mode(put, live):
    docs = [config_map("fine"), config_map("lost", namespace="nowhere")]
    with pytest.raises(ApplyError, match="ConfigMap nowhere/lost: the namespace nowhere does not exist.*Remedy"):
        put(*docs)
    assert live(docs[0]) is None
    predicted = put(*docs, dry_run=True)
    assert actions(predicted) == {"fine": "created", "lost": "created"}
    assert "namespace nowhere does not exist" in "".join(predicted.warnings)


def test_an_unknown_kind_is_an_error_before_anything_is_written_and_a_warning_in_check_mode(put, live):
    docs = [config_map("fine"), {"apiVersion": "none.test/v1", "kind": "Thing", "metadata": {"name": "x"}}]
    with pytest.raises(ApplyError, match="Thing.none.test x: the cluster does not serve Thing of none.test/v1. Remedy: install its CRD"):
        put(*docs)
    assert live(docs[0]) is None
    predicted = put(*docs, dry_run=True)
    assert actions(predicted) == {"fine": "created", "x": "created"}
    assert "none.test" in "".join(predicted.warnings)


def test_the_rest_of_a_phase_is_applied_and_reported_when_an_object_is_refused(put):
    with pytest.raises(ApplyError, match="ConfigMap t-\\w+/BAD") as error:
        put(config_map("good"), config_map("BAD"))
    assert actions(error.value.report) == {"good": "created"}


def test_an_immutable_field_names_the_remedy(put):
    put(deployment())
    doc = deployment()
    doc["spec"]["selector"]["matchLabels"] = doc["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    with pytest.raises(ApplyError, match="immutable.*Remedy: delete the object"):
        put(doc)


def test_what_cannot_be_changed_is_made_anew_where_that_is_allowed(put, live, namespace):
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "bound"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [],
    }
    put(deployment(), binding)
    before = [live(doc)["metadata"]["uid"] for doc in (deployment(), binding)]
    doc = deployment()
    doc["spec"]["selector"]["matchLabels"] = doc["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    other = {**binding, "roleRef": {**binding["roleRef"], "name": "edit"}}
    recreate = [{"kind": "Deployment", "name": doc["metadata"]["name"], "namespace": None}, {"kind": "RoleBinding", "name": "bound"}]
    with pytest.raises(ApplyError, match="cannot change roleRef.*Remedy: delete the object"):
        put(doc, other, recreate=recreate[:1])
    predicted = put(doc, other, recreate=recreate, dry_run=True)
    assert actions(predicted)["bound"] == "configured"
    put(doc, other, recreate=recreate)
    assert live(doc)["spec"]["selector"] == {"matchLabels": {"app": "other"}}
    assert live(other)["roleRef"]["name"] == "edit"
    assert not {live(found)["metadata"]["uid"] for found in (doc, other)} & set(before)
    assert not put(doc, other, recreate=recreate).changed


def test_secrets_stay_hidden(put, edit):
    put(secret(token="s3cret", same="x9x9x9"))
    report = put(secret(token="changed-s3cret", same="x9x9x9"))
    assert report.changed
    shown = str(report.diff())
    values = ["s3cret", "changed-s3cret", "x9x9x9"]
    assert not any(value in shown or base64.b64encode(value.encode()).decode() in shown for value in values)
    edit("kubectl-edit", secret(), {"stringData": {"token": "by-hand"}})
    assert put(secret(token="changed-s3cret", same="x9x9x9")).changed
    broken = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "broken"}, "data": {"k": "not*base64*s3cret"}}
    with pytest.raises(ApplyError) as error:
        put(broken)
    assert "Secret" in str(error.value)
    assert "s3cret" not in str(error.value)


# -- inventory and prune ------------------------------------------------------------------------------------------------


def test_prune_deletes_what_the_set_no_longer_has_and_only_that(put, cluster, namespace, edit, live):
    definition = crd()
    claim_spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "disk"}, "spec": claim_spec}
    kept, dropped, taken = config_map("kept"), config_map("dropped"), config_map("taken-over")
    mine, other = Inventory(cluster, "test", namespace), Inventory(cluster, "other", namespace)
    put(definition, custom(definition), claim, kept, dropped, taken, config_map("abandoned", a="1"), inventory=mine)
    logic.apply(cluster, [taken], other.manager, namespace=namespace, inventory=other)
    cluster.apply(config_map("abandoned", namespace, a="2"), "argocd", force=True)  # nothing of it is ours any more

    assert "dropped" not in actions(put(kept, inventory=mine))  # kept in mind without prune
    predicted = put(kept, inventory=mine, prune=True, dry_run=True)
    assert actions(predicted) == {"kept": "unchanged", "dropped": "deleted", "one": "deleted"}
    assert live(dropped)
    real = put(kept, inventory=mine, prune=True)
    assert (real.result(), real.diff()) == (predicted.result(), predicted.diff())
    assert live(dropped) is None
    assert live(custom(definition)) is None
    assert all(live(doc) for doc in (kept, taken, claim, config_map("abandoned")))
    assert cluster.get(definition["apiVersion"], definition["kind"], definition["metadata"]["name"])
    assert not put(kept, inventory=mine, prune=True).changed
    assert [entry["metadata"]["name"] for entry in mine.read()] == ["kept"]


@pytest.fixture
def gadgets(put, cluster, namespace):
    """A set that once had a definition, an object of it and a claim; `gadgets(prune_data=…)` is the run that has them no longer."""
    definition, inventory = crd(), Inventory(cluster, "test", namespace)
    claim_spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "disk"}, "spec": claim_spec}
    put(definition, custom(definition), claim, config_map("kept"), config_map("dropped"), inventory=inventory)
    of_a_user = custom(definition, "of-a-user")

    def run(**options):
        return put(config_map("kept"), inventory=inventory, prune=True, **options)

    run.definition, run.claim, run.of_a_user, run.inventory = definition, claim, of_a_user, inventory
    run.make = lambda: cluster.apply({**of_a_user, "metadata": {"name": "of-a-user", "namespace": namespace}}, "user")
    return run


def test_prune_unused_deletes_definitions_without_objects_and_no_claims(gadgets, cluster, live):
    name = gadgets.definition["metadata"]["name"]
    predicted = gadgets(prune_data="unused", dry_run=True)
    assert actions(predicted) == {"kept": "unchanged", "dropped": "deleted", "one": "deleted", name: "deleted"}
    real = gadgets(prune_data="unused")
    assert (real.result(), real.diff(), real.warnings) == (predicted.result(), predicted.diff(), [])
    assert not cluster.serves(gadgets.of_a_user["apiVersion"], "Gadget")
    assert live(gadgets.claim)


def test_prune_unused_keeps_definitions_with_objects_until_these_are_gone(gadgets, cluster, namespace, live):
    gadgets.make()
    name = gadgets.definition["metadata"]["name"]
    predicted, real = gadgets(prune_data="unused", dry_run=True), gadgets(prune_data="unused")
    assert real.warnings == predicted.warnings
    assert f"{name} is kept, because there are objects of it: {namespace}/of-a-user. Remedy:" in real.warnings[0]
    assert actions(real) == actions(predicted) == {"kept": "unchanged", "dropped": "deleted", "one": "deleted"}
    assert live(gadgets.of_a_user)
    assert not gadgets(prune_data="unused").changed
    cluster.delete(gadgets.of_a_user["apiVersion"], "Gadget", "of-a-user", namespace)
    assert actions(gadgets(prune_data="unused")) == {"kept": "unchanged", name: "deleted"}
    assert [entry["metadata"]["name"] for entry in gadgets.inventory.read()] == ["kept"]


def test_prune_delete_takes_the_data_too(gadgets, cluster, live):
    gadgets.make()
    real = gadgets(prune_data="delete")
    assert {"disk", gadgets.definition["metadata"]["name"]} <= {name for name, action in actions(real).items() if action == "deleted"}
    assert not cluster.serves(gadgets.of_a_user["apiVersion"], "Gadget")
    # nothing else takes the finalizer away that Kubernetes gives a claim
    assert (live(gadgets.claim) or {"metadata": {"deletionTimestamp": "now"}})["metadata"]["deletionTimestamp"]


def test_custom_resources_are_gone_before_the_rest_is_pruned(gadgets, edit, live):
    one = custom(gadgets.definition)
    edit("controller", one, {"metadata": {"finalizers": ["test/hold"]}})
    with pytest.raises(ApplyError, match="one: is still being deleted, held by finalizers: test/hold"):
        gadgets(timeout=1)
    assert live(config_map("dropped"))
    edit("controller", one, {"metadata": {"finalizers": None}})
    assert actions(gadgets()) == {"kept": "unchanged", "dropped": "deleted"}


def test_a_removal_keeps_used_definitions_that_only_the_list_names(gadgets, cluster, namespace):
    gadgets.make()
    remove = {"namespace": namespace, "timeout": 20, "inventory": gadgets.inventory, "prune": True}
    report = logic.remove(cluster, [], MANAGER, prune_data="unused", **remove)
    assert set(actions(report)) == {"one", "kept", "dropped"}
    assert "of-a-user" in report.warnings[0]
    assert [entry["metadata"]["name"] for entry in gadgets.inventory.read()] == [gadgets.definition["metadata"]["name"]]
    assert set(actions(logic.remove(cluster, [], MANAGER, prune_data="delete", **remove))) == {gadgets.definition["metadata"]["name"]}
    assert gadgets.inventory.read() == []


def test_a_run_that_failed_half_way_is_remembered(put, cluster, namespace, live):
    inventory = Inventory(cluster, "test", namespace)
    with pytest.raises(ApplyError):
        put(config_map("good"), config_map("BAD"), inventory=inventory)
    assert live(config_map("good"))
    assert actions(put(config_map("next"), inventory=inventory, prune=True)) == {"next": "created", "good": "deleted"}


def test_a_damaged_inventory_is_an_error(put, cluster, namespace):
    inventory = Inventory(cluster, "test", namespace)
    cluster.apply(config_map(inventory.name, namespace, objects="[oops"), "test")
    with pytest.raises(ApplyError, match=f"ConfigMap {namespace}/mlops-platform-test .* damaged .* Remedy: delete it"):
        put(config_map(), inventory=inventory)


# -- waiting ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def webhook_server(tmp_path):
    """(clientConfig, function that lets the server begin to answer) of a webhook that allows everything."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "webhook")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    plain = serialization.NoEncryption()
    (tmp_path / "pem").write_bytes(certificate + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            review["response"] = {"uid": review.pop("request")["uid"], "allowed": True}
            data = json.dumps(review).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    # Bound but not listening: connections are refused until start().
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.server_bind()
    threads = []

    def start():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "pem")
        server.server_activate()
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threads.append(threading.Thread(target=server.serve_forever, args=[0.05], daemon=True))
        threads[0].start()

    yield {"url": f"https://127.0.0.1:{server.server_address[1]}/", "caBundle": base64.b64encode(certificate).decode()}, start
    if threads:
        server.shutdown()
    server.server_close()


@pytest.fixture
def webhook(cluster):
    """Install webhook configurations for the time of the test, and wait until the API server asks them."""
    installed = []

    def install(doc, namespace):
        cluster.apply(doc, "test")
        installed.append(doc)
        name = doc["metadata"]["name"]
        deadline = time.monotonic() + 10
        while True:
            try:
                cluster.apply(config_map("probe", namespace, labels={"webhook": name}), "test", dry_run=True)
            except logic.ApiError as error:
                assert name in error.message
                return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    yield install
    for doc in installed:
        cluster.delete(doc["apiVersion"], doc["kind"], doc["metadata"]["name"])


def test_what_a_starting_webhook_refuses_is_applied_once_it_answers(put, namespace, webhook, webhook_server):
    client, start = webhook_server
    webhook(a_webhook("starting.hook.test", **client), namespace)
    starter = threading.Timer(1.0, start)
    starter.start()
    refused = config_map("refused", labels={"webhook": "starting.hook.test"})
    report = put(refused, config_map("free"), timeout=30)
    starter.join()
    assert actions(report) == {"refused": "created", "free": "created"}
    assert not put(refused).changed


def test_check_mode_does_not_wait_for_a_webhook(put, namespace, webhook):
    webhook(a_webhook("down.hook.test"), namespace)
    start = time.monotonic()
    report = put(config_map("refused", labels={"webhook": "down.hook.test"}), dry_run=True, timeout=60)
    assert time.monotonic() - start < 5
    assert actions(report) == {"refused": "created"}
    assert "down.hook.test" in report.warnings[0]


def a_service(namespace, name="hook"):
    spec = {"selector": {"app": "hook"}, "ports": [{"port": 443}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def test_a_webhook_without_pods_is_named_with_its_service_and_the_cause(put, cluster, namespace, webhook):
    cluster.apply(a_service(namespace), "test")
    webhook(a_webhook("nobody.hook.test", service={"name": "hook", "namespace": namespace}, caBundle=""), namespace)
    with pytest.raises(ApplyError) as error:
        put(config_map("refused", labels={"webhook": "nobody.hook.test"}), timeout=1)
    text = str(error.value)
    parts = ("refused", 'webhook "nobody.hook.test"', "given up after 1 s", f"Service {namespace}/hook", "no pod of namespace", "app=hook")
    assert [part for part in parts if part not in text] == []


def test_a_webhook_whose_pod_cannot_start_ends_the_wait_at_once(put, cluster, namespace, webhook):
    cluster.apply(a_service(namespace), "test")
    webhook(a_webhook("broken.hook.test", service={"name": "hook", "namespace": namespace}, caBundle=""), namespace)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "hook", "namespace": namespace, "labels": {"app": "hook"}},
        "spec": {"containers": [{"name": "hook", "image": "hook:none"}], "automountServiceAccountToken": False},
    }
    cluster.apply(pod, "test")
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "hook:none": not found'}
    status = {"name": "hook", "image": "hook:none", "imageID": "", "ready": False, "restartCount": 0, "state": {"waiting": waiting}}
    scheduled = {"type": "PodScheduled", "status": "True"}
    path = cluster.resource("v1", "Pod").path(namespace, "hook") + "/status"
    cluster.request(
        "PATCH", path, None, {"status": {"phase": "Pending", "conditions": [scheduled], "containerStatuses": [status]}}, MERGE_PATCH
    )
    start = time.monotonic()
    with pytest.raises(ApplyError, match="waiting longer does not help.*ImagePull.*hook:none"):
        put(config_map("refused", labels={"webhook": "broken.hook.test"}), timeout=60)
    assert time.monotonic() - start < 20


def test_a_batch_is_not_held_up_by_the_webhook_it_installs(put):
    doc = a_webhook("own.hook.test")
    assert set(actions(put(doc, config_map("c", labels={"webhook": "own.hook.test"}), timeout=5)).values()) == {"created"}


def test_an_object_on_its_way_out_is_awaited_and_created_anew(put, edit, cluster, namespace, live):
    doc = config_map(a="1")
    put(doc)
    edit("controller", doc, {"metadata": {"finalizers": ["test/hold"]}})
    cluster.delete("v1", "ConfigMap", "settings", namespace)
    with pytest.raises(ApplyError, match="is still being deleted, held by finalizers: test/hold"):
        put(doc, timeout=0.5)
    release = threading.Timer(0.7, lambda: edit("controller", doc, {"metadata": {"finalizers": None}}))
    release.start()
    assert actions(put(doc, timeout=20)) == {"settings": "created"}
    release.join()
    assert "deletionTimestamp" not in live(doc)["metadata"]


# -- absent -------------------------------------------------------------------------------------------------------------


def test_everything_is_removed_and_waited_for(put, cluster, namespace, live):
    definition, inventory = crd(), Inventory(cluster, "test", namespace)
    docs = [definition, custom(definition), config_map(), deployment()]
    put(*docs, config_map("earlier"), inventory=inventory)
    by_a_user = custom(definition, "of-a-user")
    cluster.apply({**by_a_user, "metadata": {"name": "of-a-user", "namespace": namespace}}, "user")

    def remove(**options):
        return logic.remove(cluster, docs, MANAGER, namespace=namespace, timeout=20, inventory=inventory, prune=True, **options)

    predicted = remove(dry_run=True)
    assert set(actions(predicted)) == {definition["metadata"]["name"], "one", "settings", "web", "earlier"}
    assert all(live(doc) for doc in docs[2:])
    real = remove()
    assert (real.result(), real.diff()) == (predicted.result(), predicted.diff())
    assert set(actions(real).values()) == {"deleted"}
    assert [live(doc) for doc in (*docs[2:], config_map("earlier"), config_map(inventory.name))] == [None] * 4
    assert not cluster.serves(by_a_user["apiVersion"], "Gadget")
    assert not remove().changed


def test_a_removal_that_hangs_names_the_finalizers(put, edit, cluster, namespace):
    doc = config_map()
    put(doc)
    edit("controller", doc, {"metadata": {"finalizers": ["test/hold"]}})
    with pytest.raises(
        ApplyError, match="settings: is still being deleted, held by finalizers: test/hold.*\n- given up after 1 s"
    ) as error:
        logic.remove(cluster, [doc], MANAGER, namespace=namespace, timeout=1)
    assert actions(error.value.report) == {"settings": "deleted"}
    edit("controller", doc, {"metadata": {"finalizers": None}})


def test_what_another_set_has_too_is_not_removed(put, cluster, namespace, live):
    doc, other = config_map(), Inventory(cluster, "other", namespace)
    put(doc, inventory=Inventory(cluster, "test", namespace))
    logic.apply(cluster, [doc], other.manager, namespace=namespace, inventory=other)
    report = logic.remove(cluster, [doc], MANAGER, namespace=namespace, inventory=Inventory(cluster, "test", namespace))
    assert not report.changed
    assert "belongs to set other too" in report.warnings[0]
    assert live(doc)


# -- module -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(api_server, namespace, capsys):
    """Run the module; returns its result."""

    def run(check=False, **options):
        args = {"kubeconfig": api_server, "set": "test", "namespace": namespace, "timeout": 10, **options}
        with patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit):
            k8s_apply.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_the_module_does_it_all(module, live, namespace, tmp_path):
    (tmp_path / "web.json").write_text(
        json.dumps({"apiVersion": "v1", "kind": "List", "items": [deployment(), config_map(json='{"a":1}')]})
    )
    options = {
        "set_namespace": namespace,
        "prune": True,
        "files": [str(tmp_path / "web.json")],
        "documents": [config_map("more"), config_map("unwanted")],
        "exclude": [{"kind": "ConfigMap", "name": "unw*"}],
        "images": {"web:1": "web:2"},
        "patches": [
            {"target": {"kind": "Deployment", "name": "web"}, "merge": {"spec": {"replicas": 3}}},
            {"target": {"kind": "ConfigMap", "name": "settings"}, "json_data": {"json": {"b": 2}}},
        ],
    }
    predicted, real, again = module(check=True, **options), module(**options), module(**options)
    assert (predicted["changed"], real["changed"], again["changed"]) == (True, True, False)
    assert predicted["objects"] == real["objects"]
    assert predicted["diff"] == real["diff"]
    assert again["diff"] == []
    assert {entry["name"]: entry["action"] for entry in real["objects"]} == {"web": "created", "settings": "created", "more": "created"}
    spec = live(deployment())["spec"]
    assert (spec["replicas"], spec["template"]["spec"]["containers"][0]["image"]) == (3, "web:2")
    assert json.loads(live(config_map())["data"]["json"]) == {"a": 1, "b": 2}
    assert module(state="absent", **options)["changed"]
    assert live(deployment()) is None


def test_the_module_shows_secrets_nowhere(module, live, tmp_path):
    options = {"secrets": json.dumps([secret(password="hunter2hunter2")]), "documents": [config_map()]}
    result = module(**options)
    assert {entry["name"] for entry in result["objects"]} == {"settings", "credentials"}
    assert "hunter2" not in json.dumps(result)
    assert base64.b64decode(live(secret())["data"]["password"]) == b"hunter2hunter2"
    assert not module(**options)["changed"]
    (tmp_path / "secret.json").write_text(json.dumps(secret(password="other")))
    twice = module(**options, files=[str(tmp_path / "secret.json")])
    assert "both in secrets and among the other documents: Secret" in twice["msg"]
    assert "secrets is not JSON" in module(secrets="[")["msg"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_module_refuses_secrets_that_ansible_would_show(module, live, wrapped):
    """Not even the error shows them: Ansible adds the options to what a module returns."""
    doc = {**secret(password="hunter2hunter2"), "data": {"key": "aHVudGVyMw=="}}
    docs = [{"apiVersion": "v1", "kind": "List", "items": [doc]}] if wrapped else [config_map(), doc]
    result = module(documents=docs)
    assert result["failed"]
    assert "Remedy: give it by the option secrets instead" in result["msg"]
    assert result["invocation"]["module_args"]["documents"]
    assert not any(value in json.dumps(result) for value in ("hunter2", "aHVudGVyMw=="))
    assert live(config_map()) is None
    assert not module(documents=[{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "empty"}}]).get("failed")


def test_the_module_fails_with_what_was_done(module, edit):
    module(documents=[config_map(a="1")])
    edit("argocd", config_map(), {"data": {"a": "2"}})
    result = module(documents=[config_map(a="1"), config_map("other")])
    assert result["failed"]
    assert "force_managers: [argocd]" in result["msg"]
    assert (result["changed"], [entry["name"] for entry in result["objects"]]) == (True, ["other"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": True}, "prune needs set_namespace"),
        ({"files": ["/none.yaml"]}, "/none.yaml cannot be read"),
        ({"kubeconfig": "/none"}, "kubeconfig /none does not exist"),
        ({"set_namespace": "nowhere"}, "set_namespace nowhere does not exist"),
    ],
)
def test_the_module_explains_what_is_wrong(module, options, message):
    result = module(**options)
    assert result["failed"]
    assert message in result["msg"]


# -- what is kept, and whose namespaces are -----------------------------------------------------------------------------


def test_what_prune_keep_names_stays_and_is_named_by_every_run(put, cluster, namespace, live):
    inventory, keep = Inventory(cluster, "test", namespace), [{"kind": "ConfigMap", "name": "data-*"}]
    put(config_map("data-a"), config_map("data-b"), config_map("other"), inventory=inventory)

    def run(*docs, **options):
        return put(*docs, inventory=inventory, prune=True, prune_keep=keep, **options)

    def kept(report):
        return [entry["name"] for entry in report.result()["kept"]]

    predicted, real = run(config_map("data-a"), dry_run=True), run(config_map("data-a"))
    assert real.result() == predicted.result()
    assert (actions(real), kept(real)) == ({"data-a": "unchanged", "other": "deleted"}, ["data-b"])
    again = run(config_map("data-a"))
    assert (again.changed, kept(again)) == (False, ["data-b"])
    assert (kept(run(config_map("data-a"), config_map("data-b"))), kept(run(config_map("data-a")))) == ([], ["data-b"])
    cluster.delete("v1", "ConfigMap", "data-b", namespace)
    assert kept(run(config_map("data-a"))) == []
    assert [entry["metadata"]["name"] for entry in inventory.read()] == ["data-a"]


def test_a_removal_keeps_what_prune_keep_names_and_its_list(put, cluster, namespace, live):
    inventory, keep = Inventory(cluster, "test", namespace), [{"kind": "ConfigMap", "name": "data"}]
    put(config_map("data"), config_map("other"), inventory=inventory)

    def remove():
        return logic.remove(cluster, [], MANAGER, namespace=namespace, timeout=10, inventory=inventory, prune=True, prune_keep=keep)

    report = remove()
    assert (actions(report), [entry["name"] for entry in report.result()["kept"]]) == ({"other": "deleted"}, ["data"])
    assert live(config_map("data")) and [entry["metadata"]["name"] for entry in inventory.read()] == ["data"]
    assert not remove().changed


@pytest.fixture
def owned(put, cluster):
    """`owned(name, owner, …)` applies a namespace as its owner's."""

    def run(name, owner="ada@example.com", **options):
        doc = {**a_namespace(name), "metadata": {"name": name, "annotations": {"owner": owner}}}
        return put(doc, owner_annotation="owner", **options)

    return run


def test_a_namespace_of_somebody_else_is_refused_before_anything_is_written(owned, put, cluster):
    mine, other = (f"t-{uuid.uuid4().hex[:8]}" for _ in range(2))
    owned(mine)
    assert not owned(mine).changed
    docs = [{**a_namespace(name), "metadata": {"name": name, "annotations": {"owner": "bob@example.com"}}} for name in (mine, other)]
    for dry_run in (True, False):
        with pytest.raises(
            ApplyError, match=f"Namespace {mine} belongs to ada@example.com .annotation owner., not to bob@example.com. Remedy"
        ):
            put(*docs, owner_annotation="owner", dry_run=dry_run)
    assert cluster.get("v1", "Namespace", other) is None


def test_a_namespace_of_nobody_is_taken_only_if_it_is_this_sets(owned, cluster, namespace):
    with pytest.raises(
        ApplyError, match=f"Namespace {namespace} exists and is nobody's .* kubectl annotate namespace {namespace} owner=ada@"
    ):
        owned(namespace)
    mine = f"t-{uuid.uuid4().hex[:8]}"
    doc = {**a_namespace(mine), "metadata": {"name": mine, "annotations": {"owner": "ada@example.com"}, "labels": {"a": "b"}}}
    logic.apply(cluster, [doc], MANAGER, owner_annotation="owner")
    path = cluster.resource("v1", "Namespace").path(None, mine)
    cluster.request("PATCH", path, {"fieldManager": "kubectl-edit"}, {"metadata": {"annotations": {"owner": None}}}, MERGE_PATCH)
    logic.apply(cluster, [doc], MANAGER, owner_annotation="owner")
    assert cluster.get("v1", "Namespace", mine)["metadata"]["annotations"] == {"owner": "ada@example.com"}


def test_only_a_namespace_with_an_owner_is_deleted(cluster, namespace, owned):
    mine = f"t-{uuid.uuid4().hex[:8]}"
    owned(mine)
    with pytest.raises(ApplyError, match=f"Namespace {namespace} is nobody's .* and is not deleted"):
        logic.remove(cluster, [a_namespace(mine), a_namespace(namespace)], MANAGER, owner_annotation="owner", timeout=1)
    assert all(not cluster.get("v1", "Namespace", name)["metadata"].get("deletionTimestamp") for name in (mine, namespace))


def test_a_namespace_that_does_not_go_names_what_it_waits_for(owned, put, cluster, edit, namespace):
    doc = config_map("held", a="1")
    put(doc)
    edit("holder", doc, {"metadata": {"finalizers": ["example.com/hold"]}})
    cluster.delete("v1", "Namespace", namespace)
    # what the controller of namespaces writes
    said = {
        "type": "NamespaceContentRemaining",
        "status": "True",
        "reason": "SomeResourcesRemain",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    said["message"] = "Some resources are remaining: configmaps. has 1 resource instances"
    path = cluster.resource("v1", "Namespace").path(None, namespace)
    cluster.request("PATCH", path + "/status", {}, {"status": {"conditions": [said]}}, MERGE_PATCH)
    with pytest.raises(
        ApplyError,
        match=f"Namespace {namespace}: is Terminating since .*: waits for ConfigMap/held with finalizer example.com/hold, to be "
        f"taken away by holder, which has set it; .* kubectl --namespace {namespace} patch configmaps held ",
    ):
        logic.apply(cluster, [a_namespace(namespace)], MANAGER, timeout=0.5)
