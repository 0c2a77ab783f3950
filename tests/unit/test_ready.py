"""What ready means for each kind, and how a wait ends."""

from __future__ import annotations

import datetime

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError, ClusterError, Resource, UnknownKind
from ansible_collections.mlops.platform.plugins.module_utils.ready import Look, Target, Wait, describe, judge

CLUSTER_SCOPED = {"StorageClass", "CustomResourceDefinition", "Namespace", "ValidatingWebhookConfiguration"}


class FakeCluster:
    """Objects, an answer for service proxies, and a count of the requests."""

    def __init__(self, *objects, answer=None, served=True):
        self.objects, self.answer, self.served, self.asked, self.trouble = list(objects), answer, served, [], None

    def resource(self, api_version, kind):
        if not self.served:
            raise UnknownKind(f"does not serve {kind}. Remedy: install what defines it first (its CRD).")
        versions = [item["apiVersion"] for item in self.objects if item["kind"] == kind]
        return Resource(api_version or (versions or ["v1"])[0], kind, kind.lower() + "s", kind not in CLUSTER_SCOPED)

    def _found(self, kind, namespace):
        if self.trouble:
            raise self.trouble
        return [item for item in self.objects if item["kind"] == kind and namespace in (None, item["metadata"].get("namespace"))]

    def list(self, api_version, kind, namespace=None, label_selector=None, field_selector=None):
        self.asked.append(("list", kind, namespace))
        return self._found(kind, namespace)

    def get(self, api_version, kind, name, namespace=None):
        self.asked.append(("get", kind, name))
        return next((item for item in self._found(kind, namespace) if item["metadata"]["name"] == name), None)

    def request(self, method, path, query=None, body=None, content_type=None, headers=None, timeout=60):
        self.asked.append((method, path))
        if self.answer:
            raise self.answer
        return 200, ""


class Clock:
    """Time that passes only while something sleeps; `then` is called with the time after each sleep."""

    def __init__(self, then=lambda now: None):
        self.now, self.then = 1000.0, then

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.then(self.now - 1000.0)


def make(api_version, kind, name="web", status=None, spec=None, **meta):
    metadata = {"name": name, "uid": f"{kind}-{name}", "generation": 2} | ({} if kind in CLUSTER_SCOPED else {"namespace": "shop"}) | meta
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec or {}, "status": status or {}}


def true(*types, **more):
    return [{"type": kind, "status": "True"} | more for kind in types]


def verdict(live, *others, answer=None, **target):
    target = Target(live["kind"], live["metadata"]["name"], live["metadata"].get("namespace"), **target)
    return judge(Look(FakeCluster(live, *others, answer=answer)), live, target)


SEEN = {"observedGeneration": 2}


@pytest.mark.parametrize(
    ("status", "ready", "text"),
    [
        (SEEN | {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}, True, "2 of 2 available"),
        ({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}, False, "generation 2"),
        ({}, False, "generation 2"),
        (SEEN | {"replicas": 2, "updatedReplicas": 1, "availableReplicas": 2}, False, "1 of 2 updated"),
        (SEEN | {"replicas": 3, "updatedReplicas": 2, "availableReplicas": 3}, False, "1 old replicas are still to end"),
        (SEEN | {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}, False, "1 of 2 available"),
        (SEEN | {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "terminatingReplicas": 1}, True, "2 of 2 available"),
    ],
)
def test_deployment(status, ready, text):
    found = verdict(make("apps/v1", "Deployment", status=status, spec={"replicas": 2}))
    assert found.ready is ready and text in found.text


@pytest.mark.parametrize(
    ("strategy", "status", "ready"),
    [
        ({}, {"readyReplicas": 2, "updateRevision": "b", "currentRevision": "b"}, True),
        ({}, {"readyReplicas": 2, "updatedReplicas": 1, "updateRevision": "b", "currentRevision": "a"}, False),
        ({}, {"readyReplicas": 1, "updateRevision": "b", "currentRevision": "b"}, False),
        ({"type": "OnDelete"}, {"readyReplicas": 2, "updateRevision": "b", "currentRevision": "a"}, True),
        (
            {"rollingUpdate": {"partition": 1}},
            {"readyReplicas": 2, "updatedReplicas": 1, "updateRevision": "b", "currentRevision": "a"},
            True,
        ),
        (
            {"rollingUpdate": {"partition": 1}},
            {"readyReplicas": 2, "updatedReplicas": 0, "updateRevision": "b", "currentRevision": "a"},
            False,
        ),
    ],
)
def test_stateful_set(strategy, status, ready):
    assert verdict(make("apps/v1", "StatefulSet", status=SEEN | status, spec={"replicas": 2, "updateStrategy": strategy})).ready is ready


@pytest.mark.parametrize(("updated", "available", "ready"), [(2, 2, True), (1, 2, False), (2, 1, False)])
def test_daemon_set(updated, available, ready):
    status = SEEN | {"desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberAvailable": available}
    assert verdict(make("apps/v1", "DaemonSet", status=status)).ready is ready


def test_job_and_pod():
    job = make("batch/v1", "Job", status={"conditions": true("Complete")})
    assert verdict(job).ready
    job["status"]["conditions"] = true("SuccessCriteriaMet")
    assert not verdict(job).ready and not verdict(job).failed
    job["status"]["conditions"] = true("Failed", reason="BackoffLimitExceeded")
    assert verdict(job).failed and "BackoffLimitExceeded" in verdict(job).text
    pod = make("v1", "Pod", status={"phase": "Running", "conditions": true("Initialized")})
    assert not verdict(pod).ready
    pod["status"]["conditions"] = true("Ready")
    assert verdict(pod).ready
    pod["status"] = {"phase": "Failed"}
    assert verdict(pod).failed


@pytest.mark.parametrize(
    ("api_version", "kind"), [("kubeflow.org/v1", "TFJob"), ("kubeflow.org/v1", "PyTorchJob"), ("kubeflow.org/v1beta1", "Experiment")]
)
def test_what_trains_is_awaited_until_it_has_succeeded_or_failed(api_version, kind):
    job = make(api_version, kind, status={"conditions": true("Running")})
    assert not verdict(job).ready and not verdict(job).failed
    job["status"]["conditions"] += true("Succeeded")
    assert verdict(job).ready
    job["status"]["conditions"] = true("Failed", reason="TFJobFailed", message="train-worker-0 has failed")
    assert verdict(job).failed and "TFJobFailed: train-worker-0 has failed" in verdict(job).text


def test_a_workflow_is_awaited_until_it_has_ended_well():
    workflow = make("argoproj.io/v1alpha1", "Workflow", status={})
    assert not verdict(workflow).ready and not verdict(workflow).failed
    workflow["status"] = {"phase": "Succeeded", "progress": "2/2"}
    assert verdict(workflow).ready
    workflow["status"] = {"phase": "Failed", "message": "child 'train' failed"}
    assert verdict(workflow).failed and "child 'train' failed" in verdict(workflow).text


def test_definition_namespace_and_what_is_being_deleted():
    definition = make("apiextensions.k8s.io/v1", "CustomResourceDefinition", status={"conditions": true("Established")})
    assert "NamesAccepted" in verdict(definition).text and not verdict(definition).ready
    definition["status"]["conditions"] += true("NamesAccepted")
    assert verdict(definition).ready
    definition["metadata"] |= {"deletionTimestamp": "now", "finalizers": ["customresourcecleanup"]}
    assert not verdict(definition).ready and "customresourcecleanup" in verdict(definition).text
    assert not verdict(make("v1", "Namespace", status={"phase": "Terminating"})).ready


def endpoints(*ready, service="web"):
    found = make("discovery.k8s.io/v1", "EndpointSlice", f"{service}-x", labels={"kubernetes.io/service-name": service})
    return found | {
        "endpoints": [{"conditions": {} if each is None else {"ready": each}, "targetRef": {"kind": "Pod", "name": "x"}} for each in ready]
    }


def test_service():
    service = make("v1", "Service", spec={"selector": {"app": "web"}, "type": "ClusterIP"})
    assert not verdict(service).ready
    assert not verdict(service, endpoints(False)).ready
    assert not verdict(service, endpoints(True, service="other")).ready
    assert verdict(service, endpoints(False, True)).text == "1 ready endpoint"
    assert verdict(service, endpoints(None)).ready, "unknown counts as ready"
    service["spec"]["type"] = "LoadBalancer"
    assert "address" in verdict(service, endpoints(True)).text and not verdict(service, endpoints(True)).ready
    service["status"] = {"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}}
    assert verdict(service, endpoints(True)).ready
    assert verdict(make("v1", "Service", spec={"type": "ExternalName", "externalName": "a.b"})).ready


def test_claim():
    claim = make("v1", "PersistentVolumeClaim", status={"phase": "Pending"}, spec={"storageClassName": "standard"})
    lazy = make("storage.k8s.io/v1", "StorageClass", "standard") | {"volumeBindingMode": "WaitForFirstConsumer"}
    user = make("v1", "Pod", spec={"volumes": [{"persistentVolumeClaim": {"claimName": "web"}}]})
    assert not verdict(claim).ready
    assert verdict(claim, lazy).ready
    assert not verdict(claim, lazy, user).ready
    assert verdict(make("v1", "PersistentVolumeClaim", status={"phase": "Bound"})).ready


def webhooks(ca="eA==", service="web"):
    client = {"caBundle": ca, "service": {"namespace": "shop", "name": service, "path": "/check"}}
    return make("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "check") | {
        "webhooks": [{"name": "a.b.c", "clientConfig": client}]
    }


def test_webhook_configuration():
    service = make("v1", "Service")
    assert "no caBundle" in verdict(webhooks(ca=""), service, endpoints(True)).text
    assert "does not exist" in verdict(webhooks(), endpoints(True)).text
    assert "no ready endpoints" in verdict(webhooks(), service, endpoints(False)).text
    assert verdict(webhooks(), service, endpoints(True)).ready


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        (ApiError(400, "BadRequest", "empty body"), True),
        (ApiError(500, "InternalServerError", "no"), True),
        (ApiError(503, "ServiceUnavailable", "error trying to reach service: connection refused"), False),
        (ClusterError("the server accepted the request but did not answer in time"), False),
        (ClusterError("the credentials are refused (401 Unauthorized)"), True),
    ],
)
def test_any_answer_of_a_webhook_counts_but_none_does_not(answer, ready):
    assert verdict(webhooks(), make("v1", "Service"), endpoints(True), answer=answer).ready is ready


def test_a_webhook_outside_of_pods_cannot_be_asked():
    outside = endpoints(True)
    del outside["endpoints"][0]["targetRef"]
    assert verdict(webhooks(), make("v1", "Service"), outside, answer=ApiError(503, "", "no endpoints available")).ready


def test_a_webhook_whose_pod_has_just_become_ready_is_given_the_time_its_address_needs():
    now = datetime.datetime.now(datetime.UTC)
    pod = make("v1", "Pod", "x", status={"conditions": true("Ready", lastTransitionTime=now.strftime("%Y-%m-%dT%H:%M:%SZ"))})
    objects = [webhooks(), make("v1", "Service"), endpoints(True), pod]
    wait = waiting(FakeCluster(*objects), [Target("ValidatingWebhookConfiguration", "check")])
    assert wait.run(60).done and 2.5 <= wait.elapsed < 4
    pod["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    wait = waiting(FakeCluster(*objects), [Target("ValidatingWebhookConfiguration", "check")])
    assert wait.run(60).done and wait.elapsed == 0


def test_a_webhook_is_asked_by_the_api_server_over_tls():
    cluster = FakeCluster(webhooks(), make("v1", "Service"), endpoints(True))
    wait = Wait(cluster, [Target("ValidatingWebhookConfiguration", "check")])
    wait.look()
    wait.look(everything=True)
    assert [path for verb, path, *_ in cluster.asked if verb == "GET"] == ["/api/v1/namespaces/shop/services/https:web:443/proxy/check"]


def test_knative_kserve_and_conditions():
    ready = {"conditions": true("Ready"), "url": "http://web.shop"}
    knative = make("serving.knative.dev/v1", "Service", status=ready)
    assert not verdict(knative).ready, "without observedGeneration it may be about an earlier specification"
    assert verdict(knative | {"status": ready | SEEN}).text == "Ready at http://web.shop"
    assert not verdict(knative | {"status": ready | {"observedGeneration": 1}}).ready
    assert verdict(make("serving.kserve.io/v1beta1", "InferenceService", status=ready)).ready
    thing = make("example.com/v1", "Thing", status={"conditions": true("Synced", observedGeneration=1)})
    assert verdict(thing).text == "has no condition Ready yet"
    assert "generation 1 of 2" in verdict(thing, condition="Synced").text
    thing["status"]["conditions"] = [{"type": "Synced", "status": "False", "reason": "Denied"}]
    assert verdict(thing, condition="Synced").text == "Synced is False (Denied)"
    assert verdict(thing, condition="Synced=False").ready
    assert verdict(thing, condition="Exists").ready
    assert verdict(make("v1", "ConfigMap")).ready
    assert verdict(make("networking.istio.io/v1", "Gateway")).ready
    assert not verdict(make("gateway.networking.k8s.io/v1", "Gateway")).ready


def test_scaled_to_zero():
    selector = {"matchLabels": {"app": "web"}}
    deployment = make("apps/v1", "Deployment", status=SEEN, spec={"replicas": 0, "selector": selector})
    pod = make("v1", "Pod", status={"phase": "Running", "conditions": true("Ready")}, labels={"app": "web"})
    assert verdict(deployment, replicas=0).ready
    assert not verdict(deployment, pod, replicas=0).ready
    pod["metadata"]["deletionTimestamp"] = "now"
    assert verdict(deployment, pod, replicas=0).ready
    del pod["metadata"]["deletionTimestamp"]
    pod["metadata"]["labels"] = {"serving.knative.dev/service": "web"}
    knative = make("serving.knative.dev/v1", "Service", status=SEEN)
    assert not verdict(knative, pod, replicas=0).ready
    assert verdict(knative, pod, replicas=1).ready
    assert verdict(knative, replicas=0).ready


READY = SEEN | {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}


def deployments(count, **more):
    return [make("apps/v1", "Deployment", f"web-{n}", spec={"replicas": 1}, **more) for n in range(count)]


def targets(objects):
    return [Target(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace")) for item in objects]


def waiting(cluster, wanted, clock=None, **more):
    clock = clock or Clock()
    return Wait(cluster, wanted, clock=clock, sleep=clock.sleep, **more)


def test_many_ready_objects_cost_one_request():
    objects = deployments(40, status=READY)
    cluster = FakeCluster(*objects)
    outcome = waiting(cluster, targets(objects)).run(10)
    assert outcome.done and cluster.asked == [("list", "Deployment", "shop")]
    assert [describe(item)["seconds"] for item in outcome.awaited] == [0.0] * 40


def test_a_wait_ends_with_the_last_object_and_says_when_each_was_ready():
    objects = deployments(2, status=SEEN)

    def then(now):
        for item, at in zip(objects, (1, 5), strict=True):
            if now >= at:
                item["status"] = READY

    outcome = waiting(FakeCluster(*objects), targets(objects), Clock(then)).run(60)
    assert outcome.done
    first, second = (item.seconds for item in outcome.awaited)
    assert 1 <= first <= 2 and 5 <= second <= 6.1


def test_what_falls_back_is_waited_for_again():
    objects = deployments(2, status=READY)
    objects[1]["status"] = SEEN

    def then(now):
        objects[0]["status"] = READY if now < 2 or now > 8 else SEEN
        objects[1]["status"] = READY if now > 4 else SEEN

    wait = waiting(FakeCluster(*objects), targets(objects), Clock(then))
    assert wait.run(60).done and wait.elapsed > 8


def test_a_timeout_says_what_each_object_waits_for():
    objects = deployments(2, status=SEEN)
    objects[0]["status"] = READY
    wait = waiting(FakeCluster(*objects), [*targets(objects)])
    outcome = wait.run(20)
    assert outcome.failed and 20 <= wait.elapsed < 21
    assert "1 of 2 objects is not ready after 20 s (timeout):" in outcome.message
    assert "- deployment/shop/web-1: 0 of 1 updated" in outcome.message and "web-0" not in outcome.message


def broken_pod(reason, message):
    """A Deployment, its ReplicaSet and its pod, which waits with that reason."""

    def owner(item):
        return {"ownerReferences": [{"uid": item["metadata"]["uid"]}]}

    web = deployments(1, status=SEEN)[0]
    replicas = make("apps/v1", "ReplicaSet", **owner(web))
    container = {"name": "app", "ready": False, "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}
    status = {"conditions": true("PodScheduled"), "containerStatuses": [container]}
    return [
        web,
        replicas,
        make("v1", "Pod", "web-x", status=status, spec={"containers": [{"name": "app", "image": "shop/web:1"}]}, **owner(replicas)),
    ]


def test_a_final_cause_ends_the_wait_within_seconds():
    objects = broken_pod("ImagePullBackOff", "shop/web:1: not found")
    wait = waiting(FakeCluster(*objects), targets(objects[:1]))
    outcome = wait.run(300)
    assert outcome.failed and wait.elapsed < 6
    assert "waiting longer is in vain" in outcome.message
    assert "Pod shop/web-x container app: ImagePullBackOff: image shop/web:1 cannot be pulled: shop/web:1: not found" in outcome.message


@pytest.mark.parametrize("grace", [10, 30])
def test_a_passing_cause_ends_the_wait_after_the_grace(grace):
    objects = broken_pod("ErrImagePull", "dial tcp: i/o timeout")
    wait = waiting(FakeCluster(*objects), targets(objects[:1]), grace=grace)
    assert wait.run(300).failed and grace <= wait.elapsed < grace + 6


def test_slices_add_up_to_one_wait():
    objects = broken_pod("ErrImagePull", "dial tcp: i/o timeout")
    clock, state, slices = Clock(), None, 0
    while True:
        wait = waiting(FakeCluster(*objects), targets(objects[:1]), clock, state=state)
        outcome = wait.run(300, 10)
        if outcome.failed:
            break
        assert not outcome.done and "dial tcp" in outcome.awaited[0].line()
        state, slices = wait.state, slices + 1
    assert slices == 3 and 30 <= wait.elapsed < 36


def test_a_missing_object_ends_the_wait_with_what_there_is_instead():
    objects = deployments(1, status=READY)
    namespace = make("v1", "Namespace", "shop")
    wait = waiting(FakeCluster(*objects, namespace), [Target("Deployment", "web0", "shop")], missing_after=20)
    outcome = wait.run(300)
    assert outcome.failed and 20 <= wait.elapsed < 24
    assert "- deployment/shop/web0: does not exist" in outcome.message and "there is web-0" in outcome.message
    gone = waiting(FakeCluster(*objects), [Target("Deployment", "web-0", "shoop")]).run(0)
    assert "the namespace shoop does not exist" in gone.message


def test_a_kind_that_is_not_served_may_still_come():
    thing = make("example.com/v1", "Thing", status={"conditions": true("Ready")})
    cluster = FakeCluster(thing, served=False)

    def then(now):
        cluster.served = now > 3

    assert waiting(cluster, targets([thing]), Clock(then)).run(60).done
    cluster.served = False
    assert "its CRD" in waiting(cluster, targets([thing])).run(1).message


def test_a_failed_job_ends_the_wait_at_once():
    job = make("batch/v1", "Job", status={"conditions": true("Failed", reason="BackoffLimitExceeded", message="too often")})
    wait = waiting(FakeCluster(job), targets([job]))
    outcome = wait.run(300)
    assert outcome.failed and wait.elapsed == 0 and "BackoffLimitExceeded: too often" in outcome.message


def test_an_api_server_that_restarts_is_waited_for_but_not_forever():
    objects = deployments(1, status=SEEN)
    cluster = FakeCluster(*objects)

    def then(now):
        cluster.trouble = ClusterError("cannot be reached") if 2 < now < 15 else None
        objects[0]["status"] = READY if now > 12 else SEEN

    assert waiting(cluster, targets(objects), Clock(then)).run(60).done
    cluster = FakeCluster(*deployments(1, status=SEEN))

    def away(now):
        cluster.trouble = ClusterError("cannot be reached")

    wait = waiting(cluster, targets(objects), Clock(away))
    with pytest.raises(ClusterError):
        wait.run(600)
    assert 30 <= wait.elapsed < 33


@pytest.mark.parametrize("error", [ClusterError("cannot be reached"), ApiError(403, "Forbidden", "may not list")])
def test_a_cluster_that_cannot_be_used_is_reported_at_once(error):
    cluster = FakeCluster()
    cluster.trouble = error
    with pytest.raises(ClusterError):
        waiting(cluster, [Target("Deployment", "web", "shop")]).run(60)
