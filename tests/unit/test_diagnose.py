"""Diagnoses from objects as API servers return them."""

from __future__ import annotations

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError, Resource, UnknownKind
from ansible_collections.mlops.platform.plugins.module_utils.diagnose import Cause, Patience, causes

CLUSTER_SCOPED = {"StorageClass", "CustomResourceDefinition", "Namespace", "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"}


class FakeCluster:
    """Just the objects given to it, and a count of the requests."""

    def __init__(self, *objects, logs="", unknown=(), forbidden=()):
        self.objects, self.logs, self.unknown, self.forbidden, self.asked = list(objects), logs, unknown, forbidden, []

    def resource(self, api_version, kind):
        if kind in self.unknown:
            raise UnknownKind(f"does not serve {kind}")
        versions = [item["apiVersion"] for item in self.objects if item["kind"] == kind]
        return Resource(api_version or (versions or ["v1"])[0], kind, kind.lower() + "s", kind not in CLUSTER_SCOPED)

    def named(self, plural, group):
        kinds = {(item["kind"].lower() + "s", item["apiVersion"].rpartition("/")[0]): item for item in self.objects}
        found = kinds.get((plural, group))
        return Resource(found["apiVersion"], found["kind"], plural, True) if found else None

    def list(self, api_version, kind, namespace=None, label_selector=None, field_selector=None):
        self.asked.append(("list", kind, namespace))
        self.resource(api_version, kind)
        if kind in self.forbidden:
            raise ApiError(403, "Forbidden", f"may not list {kind}")
        return [
            item
            for item in self.objects
            if item["kind"] == kind
            and api_version in (None, item["apiVersion"])
            and (namespace is None or item["metadata"].get("namespace") == namespace)
        ]

    def get(self, api_version, kind, name, namespace=None):
        self.asked.append(("get", kind, name))
        self.resource(api_version, kind)
        return next((item for item in FakeCluster.list(self, api_version, kind, namespace) if item["metadata"]["name"] == name), None)

    def request(self, method, path, query=None, body=None, content_type=None, headers=None, timeout=60):
        self.asked.append((method, path, query))
        if "/log" in path:
            return 200, self.logs
        raise AssertionError(path)


def make(api_version, kind, name, namespace="shop", owner=None, status=None, spec=None, **meta):
    metadata = {"name": name, "uid": f"uid-{kind}-{name}", "generation": 1, **meta}
    if kind not in CLUSTER_SCOPED:
        metadata["namespace"] = namespace
    if owner:
        metadata["ownerReferences"] = [
            {"kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "controller": True}
        ]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec or {}, "status": status or {}}


def deployment(name="web", **status):
    return make("apps/v1", "Deployment", name, spec={"replicas": 1}, status={"observedGeneration": 1, **status})


def replica_set(owner, revision=1, **status):
    annotations = {"deployment.kubernetes.io/revision": str(revision)}
    return make("apps/v1", "ReplicaSet", f"{owner['metadata']['name']}-{revision}", owner=owner, status=status, annotations=annotations)


def pod(owner, *containers, name=None, scheduled=True, requests=None, **extra):
    """A pod that is not ready, with these container statuses."""
    conditions = [{"type": "Ready", "status": "False"}]
    if scheduled is not None:
        conditions.append(
            {"type": "PodScheduled", "status": "True"} if scheduled is True else {"type": "PodScheduled", "status": "False", **scheduled}
        )
    specs = [{"name": c["name"], "image": c.get("image", "shop/web:1"), "resources": {"requests": requests or {}}} for c in containers]
    status = {"phase": "Pending", "conditions": conditions, "containerStatuses": list(containers)}
    name = name or f"{owner['metadata']['name']}-abc" if owner else name
    return make(
        "v1",
        "Pod",
        name,
        owner=owner,
        spec={"containers": specs or [{"name": "app", "resources": {"requests": requests or {}}}]},
        status=status,
        **extra,
    )


def waiting(reason, message="", name="app", restarts=0, **last):
    return {
        "name": name,
        "ready": False,
        "restartCount": restarts,
        "state": {"waiting": {"reason": reason, "message": message}},
        "lastState": last,
    }


def event(about, reason, message, at="2026-01-01T00:00:00Z"):
    involved = {"kind": about["kind"], "name": about["metadata"]["name"], "uid": about["metadata"]["uid"]}
    meta = {"name": f"{reason}-{at}", "namespace": about["metadata"].get("namespace", "default")}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": meta,
        "involvedObject": involved,
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
    }


def diagnose(*containers, events=(), extra=(), **more):
    """The causes found for a Deployment with one such pod."""
    owner = deployment()
    replicas = replica_set(owner)
    broken = pod(replicas, *containers, **more)
    made = [event(broken, *each) for each in events]
    return causes(FakeCluster(owner, replicas, broken, *made, *extra, logs="starting\nbroken: no database\n"), owner)


NOT_FOUND = (
    'Back-off pulling image "gcr.io/x/y:v1": ErrImagePull: rpc error: code = NotFound desc = failed to pull and unpack image '
    '"gcr.io/x/y:v1": failed to resolve reference "gcr.io/x/y:v1": gcr.io/x/y:v1: not found'
)
NETWORK = (
    'failed to pull and unpack image "gcr.io/x/y:v1": failed to resolve reference "gcr.io/x/y:v1": failed to do request: Head '
    '"https://gcr.io/v2/x/y/manifests/v1": dial tcp: lookup gcr.io on 10.0.0.1:53: no such host'
)
DENIED = 'failed to pull and unpack image "shop/web:1": pull access denied, repository does not exist or may require authorization'


@pytest.mark.parametrize(
    ("reason", "message", "terminal", "lasting", "said"),
    [
        ("ImagePullBackOff", NOT_FOUND, True, False, "not found"),
        ("ErrImagePull", DENIED, True, False, "pull access denied"),
        ("ErrImagePull", NETWORK, False, True, "no such host"),
        ("ErrImagePull", "unexpected status from HEAD request to https://r/v2/x: 503 Service Unavailable", False, True, "503"),
        ("ErrImagePull", "unexpected status from HEAD request to https://r/v2/x: 404 Not Found", True, False, "404"),
        ("ErrImagePull", "toomanyrequests: You have reached your pull rate limit", False, True, "rate limit"),
        ("ErrImageNeverPull", "Container image is not present with pull policy of Never", True, False, "Never"),
        ("InvalidImageName", 'Failed to apply default image tag "A:b:c": invalid reference format', True, False, "invalid reference"),
    ],
)
def test_images_that_cannot_be_pulled(reason, message, terminal, lasting, said):
    (cause,) = diagnose(waiting(reason, message))
    assert cause.object == "Pod shop/web-1-abc container app"
    assert (cause.reason, cause.terminal, cause.lasting) == (reason, terminal, lasting)
    assert "shop/web:1" in cause.message and said in cause.message


def test_the_digest_of_an_image_is_not_mistaken_for_the_registrys_answer():
    image = "shop/web@sha256:503aaa429"
    (cause,) = diagnose({**waiting("ErrImagePull", f'failed to pull image "{image}": {image}: not found'), "image": image})
    assert cause.terminal


def test_older_kubelets_say_only_in_an_event_why_an_image_cannot_be_pulled():
    (cause,) = diagnose(
        waiting("ImagePullBackOff", 'Back-off pulling image "shop/web:1"'),
        events=[
            ("Failed", 'Failed to pull image "shop/web:1": manifest unknown'),
            ("Failed", "Error: ImagePullBackOff", "2026-01-01T00:00:09Z"),
        ],
    )
    assert cause.terminal and "manifest unknown" in cause.message


UNSCHEDULABLE = {"reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu. preemption: not helpful."}


def test_an_unschedulable_pod_says_what_it_asks_for():
    (cause,) = diagnose(scheduled=UNSCHEDULABLE, requests={"cpu": "64"})
    assert (cause.object, cause.terminal, cause.lasting) == ("Pod shop/web-1-abc", False, True)
    assert "0/1 nodes are available: 1 Insufficient cpu" in cause.message and "cpu: app 64" in cause.message


def test_an_autoscaler_that_adds_a_node_is_waited_for():
    (cause,) = diagnose(scheduled=UNSCHEDULABLE, events=[("TriggeredScaleUp", "pod triggered scale-up: [pool 1->2]")])
    assert cause.reason == "ScalingUp" and not cause.lasting and not cause.terminal


def test_an_autoscaler_that_gave_up_is_not_waited_for():
    events = [("TriggeredScaleUp", "pool 1->2"), ("NotTriggerScaleUp", "max node group size reached", "2026-01-01T00:05:00Z")]
    (cause,) = diagnose(scheduled=UNSCHEDULABLE, events=events)
    assert cause.lasting and "max node group size reached" in cause.message


@pytest.mark.parametrize(("restarts", "lasting"), [(1, False), (3, True)])
def test_a_crash_loop_shows_exit_code_and_last_output(restarts, lasting):
    (cause,) = diagnose(waiting("CrashLoopBackOff", "back-off", restarts=restarts, terminated={"exitCode": 7, "reason": "Error"}))
    assert cause.reason == "CrashLoopBackOff" and cause.lasting is lasting and not cause.terminal
    assert "exit code 7" in cause.message and "starting / broken: no database" in cause.message


def test_a_container_that_runs_again_after_crashes_gets_its_chance():
    running = {"name": "app", "ready": False, "restartCount": 5, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}}
    (cause,) = diagnose(running)
    assert not cause.lasting and not cause.terminal


def test_a_program_that_is_not_in_the_image_is_terminal():
    message = 'runc create failed: unable to start container process: exec: "/app": stat /app: no such file or directory'
    assert diagnose(waiting("RunContainerError", message))[0].terminal
    looping = waiting("CrashLoopBackOff", restarts=1, terminated={"exitCode": 128, "reason": "StartError", "message": message})
    assert diagnose(looping)[0].terminal


def test_out_of_memory_is_named():
    (cause,) = diagnose(waiting("CrashLoopBackOff", restarts=4, terminated={"exitCode": 137, "reason": "OOMKilled"}))
    assert "OOMKilled" in cause.message


def test_a_missing_config_map_is_terminal_unless_it_exists_by_now():
    status = waiting("CreateContainerConfigError", 'configmap "settings" not found')
    (cause,) = diagnose(status)
    assert cause.terminal and 'configmap "settings" not found' in cause.message
    (cause,) = diagnose(status, extra=[make("v1", "ConfigMap", "settings")])
    assert not cause.terminal and not cause.lasting


def test_a_missing_secret_of_a_volume():
    creating = waiting("ContainerCreating")
    message = 'MountVolume.SetUp failed for volume "cert" : secret "webhook-cert" not found'
    (cause,) = diagnose(creating, events=[("Scheduled", "assigned"), ("FailedMount", message)])
    assert cause.reason == "FailedMount" and cause.lasting and "webhook-cert" in cause.message
    (cause,) = diagnose(creating, events=[("FailedMount", message)], extra=[make("v1", "Secret", "webhook-cert")])
    assert not cause.lasting


def test_a_pull_in_progress_is_no_failure():
    (cause,) = diagnose(
        waiting("ContainerCreating"), events=[("Scheduled", "x"), ("Pulling", 'Pulling image "shop/web:1"', "2026-01-01T00:00:01Z")]
    )
    assert str(cause) == 'Pod shop/web-1-abc: Pulling: pulling image "shop/web:1"' and not cause.lasting


def test_a_failing_readiness_probe_is_quoted():
    owner = deployment()
    replicas = replica_set(owner)
    broken = pod(replicas, {"name": "app", "ready": False, "restartCount": 0, "state": {"running": {"startedAt": "x"}}})
    unhealthy = event(broken, "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503")
    unhealthy["involvedObject"]["fieldPath"] = "spec.containers{app}"
    (cause,) = causes(FakeCluster(owner, replicas, broken, unhealthy), owner)
    assert cause.reason == "NotReady" and "statuscode: 503" in cause.message and not cause.lasting


def test_only_the_newest_replica_set_is_blamed():
    owner = deployment()
    old, new = replica_set(owner, 9), replica_set(owner, 10)
    objects = [owner, old, new, pod(old, waiting("ImagePullBackOff", NOT_FOUND)), pod(new, waiting("ContainerCreating"))]
    (cause,) = causes(FakeCluster(*objects), owner)
    assert cause.object == "Pod shop/web-10-abc"


def test_pods_that_are_ending_are_not_blamed():
    owner = deployment()
    new = replica_set(owner)
    ending = pod(new, waiting("ImagePullBackOff", NOT_FOUND), deletionTimestamp="2026-01-01T00:00:00Z")
    assert causes(FakeCluster(owner, new, ending), owner) == []


def test_nothing_is_blamed_before_the_controller_saw_the_specification():
    owner = deployment()
    owner["metadata"]["generation"] = 2
    old = replica_set(owner)
    assert causes(FakeCluster(owner, old, pod(old, waiting("ImagePullBackOff", NOT_FOUND))), owner) == []


QUOTA = 'pods "web-1-x" is forbidden: exceeded quota: small, requested: cpu=2,pods=1, used: cpu=1,pods=1, limited: cpu=2,pods=9'


@pytest.mark.parametrize(
    ("message", "terminal"),
    [
        (QUOTA, True),
        ('pods "x" is forbidden: failed quota: small: must specify cpu', True),
        ('admission webhook "policy.example.com" denied the request: no', True),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged', True),
        ('Internal error occurred: failed calling webhook "x": no endpoints available for service "y"', False),
        ('pods "x" is forbidden: error looking up service account shop/web: serviceaccount "web" not found', False),
        ("pods is forbidden: status unknown for quota: small, resources: pods", False),
    ],
)
def test_pods_that_are_refused(message, terminal):
    owner = deployment()
    failed = replica_set(owner, conditions=[{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}])
    (cause,) = causes(FakeCluster(owner, failed), owner)
    assert (cause.object, cause.reason, cause.message) == ("ReplicaSet shop/web-1", "FailedCreate", message)
    assert (cause.terminal, cause.lasting) == (terminal, not terminal)


def test_a_quota_with_room_by_now_is_not_terminal():
    owner = deployment()
    failed = replica_set(owner, conditions=[{"type": "ReplicaFailure", "status": "True", "message": QUOTA}])
    full = make("v1", "ResourceQuota", "small", status={"used": {"cpu": "1", "pods": "1"}, "hard": {"cpu": "2", "pods": "9"}})
    assert causes(FakeCluster(owner, failed, full), owner)[0].terminal
    full["status"]["hard"]["cpu"] = "8"
    assert not causes(FakeCluster(owner, failed, full), owner)[0].terminal


def test_a_stateful_set_that_created_its_pod_after_all():
    owner = make("apps/v1", "StatefulSet", "db", status={"observedGeneration": 1})
    failed = event(owner, "FailedCreate", QUOTA)
    assert causes(FakeCluster(owner, failed), owner)[0].terminal
    assert causes(FakeCluster(owner, failed, event(owner, "SuccessfulCreate", "created", "2026-01-01T00:01:00Z")), owner) == []


def test_a_failed_job_shows_how_its_last_pod_ended():
    job = make(
        "batch/v1",
        "Job",
        "load",
        status={"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "limit"}]},
    )
    ended = {"name": "app", "ready": False, "restartCount": 0, "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}
    last = pod(job, ended)
    last["status"]["phase"] = "Failed"
    found = causes(FakeCluster(job, last, logs="no such bucket"), job)
    assert found[0].reason == "BackoffLimitExceeded" and found[0].terminal
    assert any("exit code 3" in cause.message and "no such bucket" in cause.message for cause in found)


def webhook_configuration(ca="eA=="):
    client = {"caBundle": ca, "service": {"namespace": "shop", "name": "hook", "port": 443}}
    return make("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "check") | {
        "webhooks": [{"name": "a.b.c", "clientConfig": client}]
    }


def test_a_webhook_without_endpoints_leads_to_the_pod():
    service = make("v1", "Service", "hook", spec={"selector": {"app": "hook"}})
    owner = deployment("hook")
    owner["spec"]["template"] = {"metadata": {"labels": {"app": "hook"}}}
    replicas = replica_set(owner)
    broken = pod(replicas, waiting("ImagePullBackOff", NOT_FOUND), labels={"app": "hook"})
    (cause,) = causes(FakeCluster(service, owner, replicas, broken), webhook_configuration())
    assert cause.object.startswith("Pod shop/hook-1-abc") and cause.terminal


def test_a_webhook_without_service_or_with_a_wrong_selector():
    (cause,) = causes(FakeCluster(), webhook_configuration())
    assert cause.object == "Service shop/hook" and cause.reason == "NotFound" and cause.lasting
    (cause,) = causes(FakeCluster(make("v1", "Service", "hook", spec={"selector": {"app": "hook"}})), webhook_configuration())
    assert cause.reason == "NoPods" and "app=hook" in cause.message and cause.lasting


def test_a_webhook_whose_deployment_has_no_replicas():
    owner = deployment("hook")
    owner["spec"] = {"replicas": 0, "template": {"metadata": {"labels": {"app": "hook"}}}}
    found = causes(FakeCluster(make("v1", "Service", "hook", spec={"selector": {"app": "hook"}}), owner), webhook_configuration())
    assert [cause.reason for cause in found] == ["ScaledToZero"]


def test_a_missing_ca_bundle_leads_to_the_certificate():
    configuration = webhook_configuration(ca="")
    configuration["metadata"]["annotations"] = {"cert-manager.io/inject-ca-from": "shop/hook-cert"}
    found = causes(FakeCluster(make("v1", "Service", "hook")), configuration)
    assert [(cause.object, cause.reason) for cause in found] == [
        ("Certificate shop/hook-cert", "NotFound"),
        ("ValidatingWebhookConfiguration check", "NoCABundle"),
    ]


def test_a_failed_revision_leads_to_its_container():
    group = "serving.knative.dev/v1"
    failed = {"type": "Ready", "status": "False", "reason": "RevisionFailed", "message": "Revision hello-1 failed: not found"}
    service = make(
        group, "Service", "hello", status={"observedGeneration": 1, "conditions": [failed | {"type": "ConfigurationsReady"}, failed]}
    )
    configuration = make(group, "Configuration", "hello", status={"observedGeneration": 1, "latestCreatedRevisionName": "hello-1"})
    revision = make(group, "Revision", "hello-1", status={"observedGeneration": 1})
    owner = make("apps/v1", "Deployment", "hello-1-deployment", owner=revision, status={"observedGeneration": 1})
    replicas = replica_set(owner)
    broken = pod(replicas, waiting("ImagePullBackOff", NOT_FOUND, name="user-container"))
    found = causes(FakeCluster(service, configuration, revision, owner, replicas, broken), service)
    assert found[0].object.endswith("container user-container") and found[0].terminal
    assert [cause.object for cause in found if cause.reason == "RevisionFailed"] == [
        "Knative Service shop/hello condition ConfigurationsReady"
    ]


def inference_service(*conditions):
    return make("serving.kserve.io/v1beta1", "InferenceService", "iris", status={"conditions": list(conditions)})


def test_a_loading_model_is_no_failure_but_a_failed_revision_is():
    loading = {
        "type": "PredictorReady",
        "status": "False",
        "reason": "MinimumReplicasUnavailable",
        "message": "Deployment does not have availability",
    }
    failed = {"type": "PredictorReady", "status": "False", "reason": "RevisionFailed", "message": "x"}
    cluster = FakeCluster(unknown=("Service",))
    assert [cause.lasting for cause in causes(cluster, inference_service(loading))] == [False]
    assert [cause.lasting for cause in causes(cluster, inference_service(failed))] == [True]


@pytest.mark.parametrize(
    ("reason", "message", "lasting"),
    [
        ("UpdateFailed", "Update call failed: error applying desired state: summary: googleapi: Error 403: Insufficient quota", True),
        ("DependencyNotFound", "reference IAMServiceAccount project/kubeflow-vm is not found", True),
        ("Unmanaged", "No controller is managing this resource.", True),
        ("Updating", "Update in progress", False),
        ("DependencyNotReady", "reference IAMServiceAccount project/kubeflow-vm is not ready", False),
    ],
)
def test_a_resource_that_google_refuses_is_lasting_and_quotes_it(reason, message, lasting):
    status = {"conditions": [{"type": "Ready", "status": "False", "reason": reason, "message": message}], "observedGeneration": 1}
    cluster = make("container.cnrm.cloud.google.com/v1beta1", "ContainerCluster", "kubeflow", status=status)
    found = causes(FakeCluster(cluster), cluster)
    assert [(cause.reason, cause.message, cause.lasting) for cause in found] == [(reason, message, lasting)]


def test_conditions_do_not_end_a_wait_for_a_node_that_is_being_added():
    model = inference_service({"type": "PredictorReady", "status": "False", "reason": "RevisionFailed", "message": "Insufficient cpu"})
    owner = make("apps/v1", "Deployment", "iris", owner=model, status={"observedGeneration": 1})
    replicas = replica_set(owner)
    pending = pod(replicas, scheduled=UNSCHEDULABLE)
    found = causes(FakeCluster(model, owner, replicas, pending, event(pending, "TriggeredScaleUp", "pool 0->1")), model)
    assert {cause.reason for cause in found} == {"ScalingUp", "RevisionFailed"} and not any(cause.lasting for cause in found)


def test_evidence_that_may_not_be_read_is_done_without():
    owner = deployment(
        conditions=[{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out progressing"}]
    )
    (cause,) = causes(FakeCluster(owner, forbidden=("Pod", "Event", "ReplicaSet")), owner)
    assert cause.reason == "ProgressDeadlineExceeded" and cause.lasting


def test_patience_confirms_what_is_final_and_bears_for_a_while_what_may_pass():
    patience = Patience(grace=30)
    final, passing, harmless = Cause("a", "x", "", terminal=True), Cause("b", "y", "", lasting=True), Cause("c", "z", "")
    assert patience.exhausted([final, passing, harmless], 0) == []
    assert patience.exhausted([final, passing, harmless], 2) == [final]
    assert patience.exhausted([passing, harmless], 29) == []
    assert Patience(30, patience.seen).exhausted([passing, harmless], 30) == [passing]


def test_patience_sees_through_the_alternation_of_pull_errors():
    patience = Patience()
    assert patience.exhausted([Cause("a", "ErrImagePull", "", terminal=True)], 0) == []
    assert patience.exhausted([Cause("a", "ImagePullBackOff", "", terminal=True)], 2)


# -- what users run -------------------------------------------------------------------------------------------------------


def test_a_failed_training_job_names_its_pod_and_what_that_said():
    failed = {"type": "Failed", "status": "True", "reason": "TFJobFailed", "message": "TFJob shop/train has failed"}
    job = make("kubeflow.org/v1", "TFJob", "train", status={"conditions": [failed]})
    ended = {"name": "tensorflow", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}, "restartCount": 0}
    worker = pod(job, ended, name="train-worker-0")
    worker["status"] |= {"phase": "Failed"}
    found = causes(FakeCluster(job, worker, logs="no digits"), job)
    assert found[0] == Cause("TFJob shop/train", "TFJobFailed", "TFJob shop/train has failed", terminal=True)
    assert any(cause.object.startswith("Pod shop/train-worker-0") and "no digits" in cause.message for cause in found)


def test_a_failed_workflow_names_its_step():
    nodes = {
        "a": {"displayName": "data-passing", "type": "DAG", "phase": "Failed"},
        "b": {"displayName": "preprocess", "type": "Pod", "phase": "Succeeded"},
        "c": {"displayName": "train", "type": "Pod", "phase": "Failed", "message": "main: Error (exit code 1)"},
    }
    workflow = make("argoproj.io/v1alpha1", "Workflow", "data-passing", status={"phase": "Failed", "nodes": nodes})
    assert causes(FakeCluster(workflow), workflow) == [
        Cause("Workflow shop/data-passing step train", "Failed", "main: Error (exit code 1)")
    ]


# -- namespaces that do not go --------------------------------------------------------------------------------------------


def terminating(remaining, **meta):
    conditions = [
        {"type": "NamespaceContentRemaining", "status": "True", "message": f"Some resources are remaining: {remaining}"},
        {"type": "NamespaceFinalizersRemaining", "status": "True", "message": "Some content in the namespace has finalizers remaining: …"},
        {"type": "NamespaceDeletionContentFailure", "status": "False", "message": "All content successfully deleted"},
    ]
    status = {"phase": "Terminating", "conditions": conditions}
    return make("v1", "Namespace", "ada", status=status, spec={"finalizers": ["kubernetes"]}, **meta)


def held(api_version, kind, name, *finalizers, manager=None):
    fields = {"f:metadata": {"f:finalizers": {f'v:"{entry}"': {} for entry in finalizers}}}
    setters = [{"manager": "kubectl", "fieldsV1": {}}, {"manager": manager, "fieldsV1": fields}] if manager else []
    return make(api_version, kind, name, "ada", finalizers=list(finalizers), managedFields=setters)


def test_a_namespace_names_what_it_waits_for_and_who_is_to_act():
    model = held(
        "serving.kserve.io/v1beta1", "InferenceService", "iris", "inferenceservice.finalizers", "example.com/hold", manager="holder"
    )
    namespace = terminating("inferenceservices.serving.kserve.io has 1 resource instances, secrets. has 2 resource instances")
    found = [cause.message for cause in causes(FakeCluster(namespace, model, make("v1", "Secret", "free", "ada")), namespace)]
    assert found == [
        "waits for InferenceService/iris with finalizer inferenceservice.finalizers, to be taken away by KServe (Deployment "
        "kserve-controller-manager), example.com/hold, to be taken away by holder, which has set it",
        "see why that does not happen, and only if it never will, take it away by hand: kubectl --namespace ada patch "
        'inferenceservices.serving.kserve.io iris --type=merge --patch \'{"metadata": {"finalizers": null}}\'',
    ]


def test_of_many_objects_some_are_named():
    volumes = [held("v1", "Claim", f"disk-{number}", "kubernetes.io/pvc-protection") for number in range(5)]
    namespace = terminating("claims. has 5 resource instances")
    found = [cause.message for cause in causes(FakeCluster(namespace, *volumes), namespace)]
    assert found[0] == (
        "waits for Claim/disk-0 with finalizer kubernetes.io/pvc-protection, to be taken away by "
        "Kubernetes, as soon as no pod uses the volume"
    )
    assert found[3] == "waits for 2 more claims"


def test_a_namespace_whose_kinds_cannot_be_listed_says_what_kubernetes_says():
    status = {
        "conditions": [{"type": "NamespaceDeletionDiscoveryFailure", "status": "True", "reason": "DiscoveryFailed", "message": "no answer"}]
    }
    namespace = make("v1", "Namespace", "ada", status=status)
    assert [cause.message for cause in causes(FakeCluster(namespace), namespace)] == ["DiscoveryFailed: no answer"]


def test_a_namespace_may_have_finalizers_itself():
    namespace = make("v1", "Namespace", "ada", spec={"finalizers": ["kubernetes", "example.com/hold"]})
    [cause] = causes(FakeCluster(namespace), namespace)
    assert cause.message == "has itself the finalizer example.com/hold, to be taken away by its controller"


def test_a_namespace_that_stays_has_no_causes():
    assert causes(FakeCluster(), make("v1", "Namespace", "ada", spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})) == []
