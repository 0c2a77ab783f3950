"""The stand-in for net-istio: what it makes of KIngress and config-istio, what it probes, and how its status moves."""

from __future__ import annotations

import copy
import http.server
import importlib
import importlib.util
import pathlib
import sys
import threading
import time

import pytest

STANDIN = pathlib.Path(__file__).resolve().parents[2] / "roles/mirror/files/standins/net_istio"


def _package():
    """Import the stand-in by its path: it is a file of an image, not a part of the collection."""
    spec = importlib.util.spec_from_file_location("net_istio", STANDIN / "__init__.py", submodule_search_locations=[str(STANDIN)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["net_istio"] = module
    spec.loader.exec_module(module)
    return [importlib.import_module(f"net_istio.{name}") for name in ("routes", "queue", "kube", "controller", "__main__")]


routes, queue, kube, controller, main = _package()

EXTERNAL = routes.Gateway("knative-serving", "knative-ingress-gateway", "istio-ingress.istio-ingress.svc.cluster.local")
INNER = routes.Gateway("knative-serving", "knative-local-gateway", "knative-local-gateway.istio-ingress.svc.cluster.local")
GATEWAYS = routes.Gateways((EXTERNAL,), (INNER,))
OUT, IN = EXTERNAL.qualified, INNER.qualified


def split(name="hello-00001", percent=100, **more):
    return {"serviceName": name, "serviceNamespace": "default", "servicePort": 80, "percent": percent, **more}


def rule(*hosts, visibility="ExternalIP", splits=None, **path):
    return {"hosts": list(hosts), "visibility": visibility, "http": {"paths": [{"splits": splits or [split()], **path}]}}


def kingress(*rules, **spec):
    return {
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "Ingress",
        "metadata": {
            "name": "hello",
            "namespace": "default",
            "uid": "u-1",
            "generation": 3,
            "resourceVersion": "7",
            "labels": {"serving.knative.dev/route": "hello"},
        },
        "spec": {
            "rules": list(rules or [rule("hello.default.example.com"), rule("hello.default.svc.cluster.local", visibility="ClusterLocal")]),
            **spec,
        },
    }


# ---- config-istio

LISTS = {
    "external-gateways": """
  # the gateway of this platform
  - name: knative-ingress-gateway
    namespace: knative-serving
    service: "istio-ingress.istio-ingress.svc.cluster.local"  # with a comment
""",
    "local-gateways": """- name: knative-local-gateway
  namespace: knative-serving
  service: knative-local-gateway.istio-ingress.svc.cluster.local
""",
}
LEGACY = {
    "gateway.knative-serving.knative-ingress-gateway": "istio-ingress.istio-ingress.svc.cluster.local",
    "local-gateway.knative-serving.knative-local-gateway": "knative-local-gateway.istio-ingress.svc.cluster.local",
}
JSON_LISTS = {
    "external-gateways": '[{"name": "knative-ingress-gateway", "namespace": "knative-serving", '
    '"service": "istio-ingress.istio-ingress.svc.cluster.local"}]',
    "local-gateways": LISTS["local-gateways"],
}


@pytest.mark.parametrize(
    "data", [LISTS, LEGACY, JSON_LISTS, LISTS | {"_example": "gateway.x.y: z"}], ids=["lists", "keys", "json", "with example"]
)
def test_every_format_of_config_istio_says_the_same(data):
    assert routes.parse_config(data) == GATEWAYS


def test_without_configuration_the_gateways_are_knatives_own():
    gateways = routes.parse_config({}, "example.cluster")
    assert [gateway.service for gateway in gateways.external + gateways.local] == [
        "istio-ingressgateway.istio-system.svc.example.cluster",
        "knative-local-gateway.istio-system.svc.example.cluster",
    ]
    assert gateways.external[0].service_key == ("istio-system", "istio-ingressgateway")


def test_one_configured_side_leaves_the_other_at_its_default():
    gateways = routes.parse_config({"gateway.ns.gw": "a.b.svc.cluster.local"})
    assert gateways.external == (routes.Gateway("ns", "gw", "a.b.svc.cluster.local"),)
    assert gateways.local[0].service == "knative-local-gateway.istio-system.svc.cluster.local"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LISTS | LEGACY, "only one format"),
        ({"external-gateways": "- name: a\n  namespace: b\n"}, "external-gateways: service must be given"),
        ({"external-gateways": "- name: a\n  namespace: b\n  service: c\n"}, "'c' is no Service host name"),
        (
            {"local-gateways": "- name: a\n  namespace: b\n  service: c.d\n  labelSelector:\n    matchLabels:\n      x: y\n"},
            "labelSelector of a is not supported",
        ),
        (
            {"external-gateways": "- name: a\n  namespace: b\n  service: c.d\n- name: e\n  namespace: b\n  service: c.d\n"},
            "only one gateway",
        ),
        ({"external-gateways": "nonsense"}, "line 1 is not understood: 'nonsense'"),
    ],
)
def test_a_config_istio_that_makes_no_sense_is_named(data, message):
    with pytest.raises(routes.ConfigError, match=message):
        routes.parse_config(data)


# ---- KIngress → VirtualService


def own_routes(service):
    """The routes that are not for probes."""
    return [route for route in service["spec"]["http"] if not any("k-network-hash" in match.get("headers", {}) for match in route["match"])]


def test_external_hosts_are_on_the_external_gateway_and_local_ones_on_the_local():
    service = routes.virtual_service(kingress(), GATEWAYS)
    assert service["spec"]["gateways"] == [OUT, IN]
    assert service["spec"]["hosts"] == [
        "hello.default",
        "hello.default.example.com",
        "hello.default.svc",
        "hello.default.svc.cluster.local",
    ]
    assert [(match["gateways"], match["authority"]["prefix"]) for route in own_routes(service) for match in route["match"]] == [
        ([OUT], "hello.default.example.com"),
        ([IN], "hello.default"),
    ]


def test_a_host_and_its_short_form_are_one_match():
    ingress = kingress(rule("hello.default", "hello.default.svc", "hello.default.svc.cluster.local", visibility="ClusterLocal"))
    (route,) = own_routes(routes.virtual_service(ingress, GATEWAYS))
    assert [match["authority"]["prefix"] for match in route["match"]] == ["hello.default", "hello.default.svc"]


def test_a_cluster_local_service_has_no_external_route():
    service = routes.virtual_service(kingress(rule("hello.default.svc.cluster.local", visibility="ClusterLocal")), GATEWAYS)
    assert service["spec"]["gateways"] == [IN]


def test_a_name_of_the_clusters_domain_is_never_served_outside():
    service = routes.virtual_service(kingress(rule("hello.default.svc.cluster.local")), GATEWAYS)
    assert service["spec"]["gateways"] == [IN]


def test_it_belongs_to_the_kingress_and_carries_its_labels():
    metadata = routes.virtual_service(kingress(), GATEWAYS)["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("hello-ingress", "default")
    assert metadata["labels"] == {"serving.knative.dev/route": "hello", routes.INGRESS_LABEL: "hello"}
    assert metadata["ownerReferences"][0]["uid"] == "u-1" and metadata["ownerReferences"][0]["controller"] is True


def test_traffic_is_split_by_percent_with_headers_of_each_split():
    splits = [
        split("hello-00001", 90, appendHeaders={"Knative-Serving-Revision": "hello-00001"}),
        split("hello-00002", 10, servicePort="http"),
    ]
    route = own_routes(routes.virtual_service(kingress(rule("h.default.example.com", splits=splits)), GATEWAYS))[0]
    assert route["route"] == [
        {
            "destination": {"host": "hello-00001.default.svc.cluster.local", "port": {"number": 80}},
            "weight": 90,
            "headers": {"request": {"set": {"Knative-Serving-Revision": "hello-00001"}}},
        },
        {"destination": {"host": "hello-00002.default.svc.cluster.local", "port": {"name": "http"}}, "weight": 10},
    ]
    assert route["retries"] == {}


def test_header_matches_paths_added_headers_and_rewritten_hosts():
    path = {
        "headers": {"Knative-Serving-Tag": {"exact": "blue"}},
        "path": "/v1",
        "appendHeaders": {"K-Original-Host": "x"},
        "rewriteHost": "hello.default",
    }
    route = own_routes(routes.virtual_service(kingress(rule("h.default.example.com", **path)), GATEWAYS))[0]
    assert route["match"] == [
        {
            "gateways": [OUT],
            "authority": {"prefix": "h.default.example.com"},
            "uri": {"prefix": "/v1"},
            "headers": {"knative-serving-tag": {"exact": "blue"}},
        }
    ]
    assert route["headers"] == {"request": {"set": {"K-Original-Host": "x"}}}
    assert route["rewrite"] == {"authority": "hello.default"}


def test_every_path_has_first_a_route_that_answers_probes_with_the_hash():
    ingress = kingress(rule("h.default.example.com", headers={"Knative-Serving-Tag": {"exact": "blue"}}, appendHeaders={"A": "b"}))
    probed, own = routes.virtual_service(ingress, GATEWAYS)["spec"]["http"]
    assert probed["match"][0]["headers"] == {"k-network-hash": {"exact": "override"}, "knative-serving-tag": {"exact": "blue"}}
    assert probed["headers"]["request"]["set"] == {"A": "b", "K-Network-Hash": routes.spec_hash(ingress)}
    assert probed["route"] == own["route"] and own["headers"]["request"]["set"] == {"A": "b"}


def test_the_hash_is_of_spec_namespace_and_name_alone():
    ingress, other = kingress(), kingress()
    other["metadata"] |= {"generation": 9, "resourceVersion": "8"}
    other["status"] = {"conditions": []}
    assert routes.spec_hash(ingress) == routes.spec_hash(other)
    other["spec"]["rules"][0]["http"]["paths"][0]["splits"][0]["percent"] = 99
    renamed = kingress()
    renamed["metadata"]["name"] = "other"
    assert len({routes.spec_hash(ingress), routes.spec_hash(other), routes.spec_hash(renamed)}) == 3


@pytest.mark.parametrize("spec", [{"tls": [{"hosts": ["h"]}]}, {"httpOption": "Redirected"}])
def test_tls_is_refused_rather_than_left_out_silently(spec):
    with pytest.raises(routes.ConfigError, match="serves no TLS"):
        routes.virtual_service(kingress(**spec), GATEWAYS)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, True),
        ({"annotations": {routes.CLASS_ANNOTATION: routes.CLASS}}, True),
        ({"annotations": {routes.CLASS_ANNOTATION: "kourier.ingress.networking.knative.dev"}}, False),
        ({"deletionTimestamp": "now"}, False),
    ],
)
def test_only_kingresses_of_this_class_are_ours(metadata, expected):
    ingress = kingress()
    ingress["metadata"] |= metadata
    assert routes.ours(ingress) is expected


def test_drift_is_a_changed_spec_owner_or_label_but_not_an_added_label():
    wanted = routes.virtual_service(kingress(), GATEWAYS)
    live = copy.deepcopy(wanted)
    live["metadata"]["labels"]["added-by"] = "somebody"
    assert not routes.drifted(live, wanted)
    for change in (
        {"spec": {}},
        {"metadata": {**live["metadata"], "ownerReferences": []}},
        {"metadata": {**live["metadata"], "labels": {}}},
    ):
        assert routes.drifted(live | change, wanted)


def test_short_forms_of_hosts_leave_out_what_is_no_domain():
    assert routes.expanded(["a.b.svc.cluster.local"]) == ["a.b", "a.b.svc", "a.b.svc.cluster.local"]
    assert routes.expanded(["a.b.example.com"]) == ["a.b.example.com"]
    assert routes.expanded(["a.1234.svc.cluster.local"]) == ["a.1234.svc", "a.1234.svc.cluster.local"]


# ---- endpoints → what is probed

SERVICE = {
    "spec": {"ports": [{"name": "status-port", "port": 15021, "targetPort": 15021}, {"name": "http2", "port": 80, "targetPort": 8080}]}
}
LOCAL_SERVICE = {"spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8081}]}}


def istio_gateway(number, protocol="HTTP", **more):
    return {"spec": {"servers": [{"port": {"number": number, "name": "x", "protocol": protocol}, **more}]}}


def endpoints(*ips, not_ready=(), ports=(("status-port", 15021), ("http2", 8080))):
    return {
        "subsets": [
            {
                "addresses": [{"ip": ip} for ip in ips],
                "notReadyAddresses": [{"ip": ip} for ip in not_ready],
                "ports": [{"name": name, "port": port} for name, port in ports],
            }
        ]
    }


def test_the_pods_port_is_found_through_the_services_port_name():
    assert routes.pod_addresses(istio_gateway(80), SERVICE, endpoints("10.0.0.2", "10.0.0.1")) == [("10.0.0.1", 8080), ("10.0.0.2", 8080)]


def test_a_server_port_that_the_service_does_not_have_is_the_pods_own():
    assert routes.pod_addresses(istio_gateway(8081), LOCAL_SERVICE, endpoints("10.0.0.1", ports=[("http", 8081)])) == [("10.0.0.1", 8081)]


def test_pods_that_are_not_ready_are_not_probed():
    assert routes.pod_addresses(istio_gateway(80), SERVICE, endpoints("10.0.0.1", not_ready=["10.0.0.9"])) == [("10.0.0.1", 8080)]
    assert routes.pod_addresses(istio_gateway(80), SERVICE, {}) == []


@pytest.mark.parametrize("gateway", [istio_gateway(80, "HTTPS"), istio_gateway(80, tls={"httpsRedirect": True})])
def test_only_plain_http_servers_are_probed(gateway):
    assert routes.pod_addresses(gateway, SERVICE, endpoints("10.0.0.1")) == []


def test_hosts_are_probed_on_the_gateway_that_serves_them():
    assert routes.hosts_by_gateway(kingress(), GATEWAYS) == {
        EXTERNAL: ["hello.default.example.com"],
        INNER: ["hello.default", "hello.default.svc", "hello.default.svc.cluster.local"],
    }


@pytest.mark.parametrize(
    ("status", "answered", "trouble"),
    [
        (200, "wanted", ""),
        (200, "older-hash", "with an older configuration"),
        (404, None, "404"),
        (503, None, "503"),
        # nothing can be told from these: as the real controller does, better Ready a moment early than never
        (200, None, ""),
        (302, None, ""),
        (403, None, ""),
    ],
)
def test_what_a_probes_answer_means(status, answered, trouble):
    verdict = routes.verdict(status, answered, "wanted")
    assert verdict.startswith(trouble) and bool(verdict) == bool(trouble)


@pytest.fixture
def pod():
    """A gateway pod: its answers by host, and what it was asked."""

    class Pod(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        answers: dict = {}
        asked: list = []

        def do_GET(self):
            self.asked.append((self.path, dict(self.headers)))
            status, marker = self.answers.get(self.headers["Host"], (404, None))
            self.send_response(status)
            if marker:
                self.send_header("K-Network-Hash", marker)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pod)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Pod, server.server_address
    server.shutdown()
    server.server_close()


def test_a_probe_asks_for_every_host_as_knatives_own_prober_does(pod):
    handler, address = pod
    handler.answers, handler.asked = {"a.example.com": (200, "h"), "b.example.com": (200, "h")}, []
    assert controller.probe(address, ["a.example.com", "b.example.com"], "h") == ""
    path, headers = handler.asked[0]
    assert path == "/healthz" and headers["Host"] == "a.example.com" and len(handler.asked) == 2
    assert (headers["K-Network-Probe"], headers["K-Network-Hash"], headers["User-Agent"]) == ("probe", "override", "Knative-Ingress-Probe")


def test_a_failed_probe_names_pod_host_and_answer(pod):
    handler, address = pod
    handler.answers = {"a.example.com": (200, "newest"), "c.example.com": (200, "an-old-one")}
    assert (
        controller.probe(address, ["a.example.com", "b.example.com"], "newest")
        == f"gateway pod 127.0.0.1:{address[1]} answered 404 for b.example.com"
    )
    assert "older configuration (an-old-o, not newest) for c.example.com" in controller.probe(address, ["c.example.com"], "newest")


def test_a_pod_that_does_not_answer_is_named():
    assert controller.probe(("127.0.0.1", 1), ["a.example.com"], "h").startswith(
        "gateway pod 127.0.0.1:1 did not answer for a.example.com: "
    )


# ---- status


def conditions(status):
    return {condition["type"]: condition for condition in status["conditions"]}


def test_while_the_gateways_are_awaited_the_status_says_for_what():
    status = routes.status_of(kingress(), GATEWAYS, "t1", waiting="gateway pod 10.0.0.1:80 answered 404 for h")
    found = conditions(status)
    assert status["observedGeneration"] == 3 and "publicLoadBalancer" not in status
    assert (found["LoadBalancerReady"]["status"], found["NetworkConfigured"]["status"], found["Ready"]["status"]) == (
        "Unknown",
        "True",
        "Unknown",
    )
    assert found["Ready"]["message"] == "Waiting for load balancer to be ready: gateway pod 10.0.0.1:80 answered 404 for h"


def test_ready_names_the_load_balancers():
    status = routes.status_of(kingress(), GATEWAYS, "t1")
    assert {condition["status"] for condition in status["conditions"]} == {"True"}
    assert status["publicLoadBalancer"] == {"ingress": [{"domainInternal": EXTERNAL.service}]}
    assert status["privateLoadBalancer"] == {"ingress": [{"domainInternal": INNER.service}]}


def test_a_transition_has_the_time_of_the_change_and_no_later_one():
    ingress = kingress()
    ingress["status"] = routes.status_of(ingress, GATEWAYS, "t1", waiting="x")
    ingress["status"] = routes.status_of(ingress, GATEWAYS, "t2", waiting="y")
    assert {condition["lastTransitionTime"] for condition in ingress["status"]["conditions"]} == {"t1"}
    ready = conditions(routes.status_of(ingress, GATEWAYS, "t3"))
    assert (ready["Ready"]["lastTransitionTime"], ready["NetworkConfigured"]["lastTransitionTime"]) == ("t3", "t1")


def test_a_new_generation_is_not_ready_until_it_was_probed():
    ingress = kingress()
    ingress["status"] = routes.status_of(ingress, GATEWAYS, "t1")
    assert routes.is_ready(ingress)
    ingress["metadata"]["generation"] = 4
    assert not routes.is_ready(ingress)
    ingress["status"] = routes.status_of(ingress, GATEWAYS, "t2", waiting="x")
    assert ingress["status"]["observedGeneration"] == 4 and not routes.is_ready(ingress)


def test_a_configuration_error_makes_it_not_ready():
    found = conditions(routes.status_of(kingress(), None, "t1", error="config-istio has both"))
    assert (found["Ready"]["status"], found["Ready"]["message"]) == ("False", "config-istio has both")


# ---- the controller, on an API in memory


class Api:
    """What Controller asks of kube.Api."""

    def __init__(self):
        self.written = []

    def get(self, path):
        return None

    def request(self, method, path, body=None, content_type=None):
        self.written.append((method, path, body))
        return body


class Watch:
    """What Controller asks of kube.Watch; nothing changes by itself."""

    stopped = False

    def __init__(self, api, path, changed, log, **query):
        self.path, self.query, self.items, self.synced = path, query, {}, threading.Event()

    def stop(self):
        self.stopped = True


@pytest.fixture
def running(monkeypatch):
    monkeypatch.setattr(kube, "Watch", Watch)
    made = controller.Controller(Api(), "knative-serving", "cluster.local")
    made.config.items = {("knative-serving", "config-istio"): {"data": LISTS}}
    made.gateways.items = {
        ("knative-serving", "knative-ingress-gateway"): istio_gateway(80),
        ("knative-serving", "knative-local-gateway"): istio_gateway(8081),
    }
    made.ingresses.items = {("default", "hello"): kingress()}
    return made


def attach(running, external=(), local=()):
    """Give the gateways ready pods."""
    running.watch_gateways(GATEWAYS)
    for gateway, service, subsets in (
        (EXTERNAL, SERVICE, endpoints(*external)),
        (INNER, LOCAL_SERVICE, endpoints(*local, ports=[("http", 8081)])),
    ):
        for watch, item in zip(running.gateway_watches[gateway.service_key], (service, subsets), strict=True):
            watch.items = {gateway.service_key: item}


def last_status(running):
    method, path, body = running.api.written[-1]
    assert method == "PATCH" and path.endswith("/namespaces/default/ingresses/hello/status")
    assert body["metadata"] == {"resourceVersion": "7"}
    return conditions(body["status"])


def test_ready_only_once_every_pod_of_every_gateway_answers(running, monkeypatch):
    attach(running, external=["10.0.0.1", "10.0.0.2"], local=["10.0.0.1"])
    behind = {("10.0.0.2", 8080)}
    asked = []

    def probe(address, hosts, marker):
        asked.append(address)
        return f"gateway pod {address[0]} answered 404" if address in behind else ""

    monkeypatch.setattr(controller, "probe", probe)
    assert running.reconcile(("default", "hello")) is False
    assert running.api.written[0][:2] == ("POST", "/apis/networking.istio.io/v1beta1/namespaces/default/virtualservices")
    assert last_status(running)["Ready"]["message"] == "Waiting for load balancer to be ready: the gateways are probed"
    running.since["default", "hello"] = (running.since["default", "hello"][0], time.monotonic() - 60)
    assert running.reconcile(("default", "hello")) is False
    assert last_status(running)["Ready"]["message"].endswith("gateway pod 10.0.0.2 answered 404")
    behind.clear()
    asked.clear()
    assert running.reconcile(("default", "hello")) is True
    assert asked == [("10.0.0.1", 8080), ("10.0.0.2", 8080), ("10.0.0.1", 8081)]
    assert last_status(running)["Ready"]["status"] == "True"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda running: attach(running, external=[], local=["10.0.0.1"]), "Service istio-ingress/istio-ingress has no ready pod"),
        (lambda running: running.gateways.items.clear(), "there is no Gateway knative-serving/knative-ingress-gateway"),
        (lambda running: None, "there is no Service istio-ingress/istio-ingress, which config-istio names"),
    ],
)
def test_a_gateway_that_is_not_there_is_named(running, prepare, message):
    prepare(running)
    running.since["default", "hello"] = (routes.spec_hash(kingress()), time.monotonic() - 60)
    assert running.reconcile(("default", "hello")) is False
    assert message in last_status(running)["LoadBalancerReady"]["message"]


def test_what_is_ready_is_not_probed_again_and_nothing_is_written(running):
    ingress = running.ingresses.items["default", "hello"]
    ingress["status"] = routes.status_of(ingress, GATEWAYS, "t1")
    running.services.items["default", "hello-ingress"] = routes.virtual_service(ingress, GATEWAYS)
    assert running.reconcile(("default", "hello")) is True
    assert running.api.written == []


def test_a_changed_virtual_service_is_set_back(running):
    ingress = running.ingresses.items["default", "hello"]
    ingress["status"] = routes.status_of(ingress, GATEWAYS, "t1")
    wanted = routes.virtual_service(ingress, GATEWAYS)
    running.services.items["default", "hello-ingress"] = wanted | {
        "spec": {"hosts": ["x"]},
        "metadata": wanted["metadata"] | {"resourceVersion": "5"},
    }
    running.route_changed(wanted)
    assert running.queue.get() == ("default", "hello")
    assert running.reconcile(("default", "hello")) is True
    ((method, path, body),) = running.api.written
    assert (method, path.rsplit("/", 1)[1]) == ("PUT", "hello-ingress")
    assert body["spec"] == wanted["spec"] and body["metadata"]["resourceVersion"] == "5"


def test_a_bad_config_istio_is_told_in_the_status_and_touches_no_route(running):
    running.config.items = {("knative-serving", "config-istio"): {"data": LISTS | LEGACY}}
    assert running.reconcile(("default", "hello")) is True
    assert len(running.api.written) == 1 and "only one format" in last_status(running)["Ready"]["message"]


def test_gateways_that_config_istio_no_longer_names_are_not_watched(running):
    running.watch_gateways(GATEWAYS)
    before = [watch for watches in running.gateway_watches.values() for watch in watches]
    running.watch_gateways(routes.parse_config({}))
    assert all(watch.stopped for watch in before)
    assert set(running.gateway_watches) == {("istio-system", "istio-ingressgateway"), ("istio-system", "knative-local-gateway")}


# ---- the queue


def test_a_key_waits_once_and_comes_again_when_it_changed_meanwhile():
    waiting = queue.Queue()
    waiting.add("a")
    waiting.add("a")
    assert waiting.get() == "a"
    waiting.add("a")  # changed while it is worked at: not given to a second worker
    waiting.add("b")
    assert waiting.get() == "b"
    waiting.done("b")
    waiting.done("a")
    assert waiting.get() == "a"
    waiting.done("a")
    waiting.close()
    assert waiting.get() is None


def test_failures_back_off_and_an_event_brings_a_key_forward():
    waiting = queue.Queue(first=0.02, longest=60)
    waiting.add("a")
    for _attempt in range(3):
        begun = time.monotonic()
        waiting.get()
        waiting.done("a", failed=True)
    assert time.monotonic() - begun >= 0.02
    waiting._failures["a"] = 20
    waiting.get()
    waiting.done("a", failed=True)  # a minute
    waiting.add("a")
    begun = time.monotonic()
    assert waiting.get() == "a" and time.monotonic() - begun < 5


# ---- watches, against an API server of one resource


class Server(http.server.BaseHTTPRequestHandler):
    """Lists and streams what the test says; every list is a new one."""

    lists: list = []
    streams: list = []

    def do_GET(self):
        body = (
            (self.streams if "watch=1" in self.path else self.lists).pop(0)
            if (self.streams if "watch=1" in self.path else self.lists)
            else None
        )
        if body is None:
            self.send_error(500)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments):
        pass


def test_a_watch_lists_again_when_its_version_is_gone_and_tells_what_went(monkeypatch):
    import http.client
    import json

    def item(name, version):
        return {"metadata": {"namespace": "n", "name": name, "resourceVersion": version}, "spec": {"v": version}}

    def event(kind, thing):
        return json.dumps({"type": kind, "object": thing}) + "\n"

    Server.lists = [
        json.dumps({"apiVersion": "v1", "kind": "ThingList", "metadata": {"resourceVersion": version}, "items": items})
        for version, items in (("1", [item("a", "1"), item("b", "1")]), ("9", [item("b", "1"), item("c", "9")]))
    ]
    Server.streams = [
        event("MODIFIED", item("a", "2"))
        + event("BOOKMARK", {"metadata": {"resourceVersion": "3"}})
        + event("ERROR", {"code": 410, "message": "too old"})
    ]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api = kube.Api.__new__(kube.Api)
    api._local = threading.local()
    monkeypatch.setattr(api, "connect", lambda timeout: http.client.HTTPConnection(*server.server_address, timeout=timeout), raising=False)
    monkeypatch.setattr(api, "headers", dict, raising=False)
    seen, listed_again, logged = [], threading.Event(), []

    def changed(thing):
        seen.append((thing["metadata"]["name"], thing["metadata"]["resourceVersion"]))
        if len(seen) == 5:
            listed_again.set()

    watch = kube.Watch(api, "/api/v1/things", changed, logged.append)
    assert listed_again.wait(10)
    assert logged == []  # a version that is gone is no trouble
    watch.stop()
    server.shutdown()
    server.server_close()
    assert sorted(seen[:2]) == [("a", "1"), ("b", "1")] and seen[2] == ("a", "2")
    assert sorted(seen[3:]) == [("a", "2"), ("c", "9")]  # a went, c came; b is as it was
    assert sorted(watch.items) == [("n", "b"), ("n", "c")]
    assert watch.items["n", "c"]["kind"] == "Thing"


def test_the_clusters_domain_is_read_from_the_pods_resolver():
    assert main.cluster_domain("nameserver 10.96.0.10\nsearch knative-serving.svc.corp.local svc.corp.local corp.local\n") == "corp.local"
    assert main.cluster_domain("nameserver 1.1.1.1\n") == "cluster.local"
