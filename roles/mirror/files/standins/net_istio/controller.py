"""Watches KIngress, config-istio, VirtualServices and the gateways, and keeps VirtualServices and status right."""

from __future__ import annotations

import datetime
import http.client
import http.server
import threading
import time
import traceback

from . import kube, queue, routes

INGRESSES = "/apis/networking.internal.knative.dev/v1alpha1"
ISTIO = "/apis/networking.istio.io/v1beta1"
WORKERS = 4
PROBE_TIMEOUT = 1.0
PATIENCE = 2.0  # seconds after which a status tells what is awaited; before, every new route is awaited for a moment
PROBE_HEADERS = {"K-Network-Probe": "probe", routes.HASH_HEADER: routes.HASH_OVERRIDE, "User-Agent": "Knative-Ingress-Probe"}


def log(text: str) -> None:
    """One line on standard output."""
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%S.%fZ} {text}", flush=True)


def now() -> str:
    """The time as Kubernetes writes it."""
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def probe(address: tuple[str, int], hosts: list[str], marker: str) -> str:
    """Ask one gateway pod for its configuration of every host; answers what is wrong, or nothing."""
    ip, port = address
    connection = http.client.HTTPConnection(ip, port, timeout=PROBE_TIMEOUT)
    try:
        for host in hosts:
            try:
                connection.request("GET", "/healthz", headers={"Host": host} | PROBE_HEADERS)
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                return f"gateway pod {ip}:{port} did not answer for {host}: {error!r}"
            trouble = routes.verdict(response.status, response.headers.get(routes.HASH_HEADER), marker)
            if trouble:
                return f"gateway pod {ip}:{port} answered {trouble} for {host}"
        return ""
    finally:
        connection.close()


class Controller:
    """One worker pool over one queue of KIngresses."""

    def __init__(self, api: kube.Api, namespace: str, domain: str):
        """Start the watches; namespace is where config-istio is."""
        self.api, self.domain = api, domain
        self.queue = queue.Queue()
        self.stopped = threading.Event()
        self.since: dict = {}  # key → (hash, when probing of it began)
        self.gateway_watches: dict[tuple[str, str], list[kube.Watch]] = {}
        self._gateways_lock = threading.Lock()
        self.config = kube.Watch(
            api,
            f"/api/v1/namespaces/{namespace}/configmaps",
            lambda _item: self.all_again(),
            log,
            fieldSelector="metadata.name=config-istio",
        )
        self.gateways = kube.Watch(api, f"{ISTIO}/gateways", lambda _item: self.pending_again(), log)
        self.services = kube.Watch(api, f"{ISTIO}/virtualservices", self.route_changed, log, labelSelector=routes.INGRESS_LABEL)
        self.ingresses = kube.Watch(api, f"{INGRESSES}/ingresses", lambda item: self.queue.add(kube.key_of(item)), log)

    def watches(self) -> tuple[kube.Watch, ...]:
        """The watches without which nothing can be decided."""
        return self.config, self.gateways, self.services, self.ingresses

    def synced(self) -> bool:
        """Whether everything was listed once."""
        return all(watch.synced.is_set() for watch in self.watches())

    # what brings a KIngress into the queue

    def all_again(self) -> None:
        """config-istio changed: every route may."""
        ingresses = getattr(self, "ingresses", None)  # its first listing may come before the others are there
        for key in list(ingresses.items) if ingresses else []:
            self.queue.add(key)

    def pending_again(self) -> None:
        """A gateway changed: what waits for it may be ready now."""
        for key in list(self.since):
            self.queue.add(key)

    def route_changed(self, item: dict) -> None:
        """A VirtualService came, changed or went: by us or by a hand."""
        for owner in item["metadata"].get("ownerReferences") or []:
            if owner.get("controller") and owner["kind"] == "Ingress":
                self.queue.add((item["metadata"]["namespace"], owner["name"]))

    # the work

    def run(self) -> None:
        """Work until stop() is called, and finish what is being worked at."""
        while not self.stopped.is_set() and not all(watch.synced.wait(0.1) for watch in self.watches()):
            pass
        if self.stopped.is_set():
            return
        log(f"{len(self.ingresses.items)} KIngresses, {len(self.services.items)} VirtualServices")
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        self.stopped.wait()
        self.queue.close()
        for worker in workers:
            worker.join(timeout=5)

    def stop(self) -> None:
        """Let run() end."""
        self.stopped.set()

    def _work(self) -> None:
        while (key := self.queue.get()) is not None:
            ready = False
            try:
                ready = self.reconcile(key)
            except kube.ApiError as error:
                if error.status != 409:  # 409: our copy is a moment old, the next attempt sees the new one
                    log(f"{'/'.join(key)}: {error}")
            except Exception:  # whatever it is, the other KIngresses and the next attempt must go on
                log(f"{'/'.join(key)}: {traceback.format_exc()}")
            self.queue.done(key, failed=not ready)

    def reconcile(self, key: tuple[str, str]) -> bool:
        """Bring one KIngress about; False: try again later."""
        ingress = self.ingresses.items.get(key)
        if ingress is None or not routes.ours(ingress):
            self.since.pop(key, None)  # its VirtualService goes with it: the KIngress owns it
            return True
        try:
            configured = self.config.items.get(next(iter(self.config.items), None)) or {}
            gateways = routes.parse_config(configured.get("data") or {}, self.domain)
            self.watch_gateways(gateways)
            wanted = routes.virtual_service(ingress, gateways, self.domain)
        except routes.ConfigError as error:
            self.write_status(ingress, routes.status_of(ingress, None, now(), error=str(error)))
            return True  # a change of the KIngress or of config-istio brings it back
        self.apply(wanted)
        if routes.is_ready(ingress):
            self.since.pop(key, None)
            self.write_status(ingress, routes.status_of(ingress, gateways, now()))
            return True
        marker = routes.spec_hash(ingress)
        if self.since.get(key, ("",))[0] != marker:
            self.since[key] = (marker, time.monotonic())
            self.queue.forget(key)
        waiting = self.probe(ingress, gateways, marker)
        if waiting:
            patient = time.monotonic() - self.since[key][1] < PATIENCE
            self.write_status(
                ingress, routes.status_of(ingress, gateways, now(), waiting="the gateways are probed" if patient else waiting)
            )
            return False
        took = time.monotonic() - self.since.pop(key)[1]
        self.write_status(ingress, routes.status_of(ingress, gateways, now()))
        log(f"{'/'.join(key)} generation {ingress['metadata'].get('generation')}: on every gateway pod {took:.2f} s after the first look")
        return True

    def apply(self, wanted: dict) -> None:
        """Create the VirtualService, or bring it back to what it should be."""
        metadata = wanted["metadata"]
        collection = f"{ISTIO}/namespaces/{metadata['namespace']}/virtualservices"
        live = self.services.items.get((metadata["namespace"], metadata["name"])) or self.api.get(f"{collection}/{metadata['name']}")
        if live is None:
            self.api.request("POST", collection, wanted)
            log(f"VirtualService {metadata['namespace']}/{metadata['name']} created")
        elif routes.drifted(live, wanted):
            kept = {name: live["metadata"][name] for name in ("resourceVersion", "annotations", "finalizers") if name in live["metadata"]}
            labels = (live["metadata"].get("labels") or {}) | metadata["labels"]
            self.api.request("PUT", f"{collection}/{metadata['name']}", wanted | {"metadata": metadata | kept | {"labels": labels}})
            log(f"VirtualService {metadata['namespace']}/{metadata['name']} set")

    def watch_gateways(self, gateways: routes.Gateways) -> None:
        """Watch the Service and the Endpoints of every gateway that config-istio names, and no others."""
        keys = {gateway.service_key for gateway in gateways.external + gateways.local}
        with self._gateways_lock:
            for namespace, name in keys - self.gateway_watches.keys():
                self.gateway_watches[namespace, name] = [
                    kube.Watch(
                        self.api,
                        f"/api/v1/namespaces/{namespace}/{kind}",
                        lambda _item: self.pending_again(),
                        log,
                        fieldSelector=f"metadata.name={name}",
                    )
                    for kind in ("services", "endpoints")
                ]
            for key in self.gateway_watches.keys() - keys:
                for watch in self.gateway_watches.pop(key):
                    watch.stop()

    def probe(self, ingress: dict, gateways: routes.Gateways, marker: str) -> str:
        """What is still awaited of the gateways for this hash; empty: nothing."""
        for gateway, hosts in routes.hosts_by_gateway(ingress, gateways, self.domain).items():
            istio_gateway = self.gateways.items.get((gateway.namespace, gateway.name))
            if istio_gateway is None:
                return f"there is no Gateway {gateway.qualified}"
            key = gateway.service_key
            service, endpoints = (watch.items.get(key) for watch in self.gateway_watches[key])
            if service is None:
                return f"there is no Service {'/'.join(key)}, which config-istio names for Gateway {gateway.qualified}"
            addresses = routes.pod_addresses(istio_gateway, service, endpoints or {})
            if not addresses:
                return f"Service {'/'.join(key)} has no ready pod with a port of Gateway {gateway.qualified}"
            for address in addresses:
                trouble = probe(address, hosts, marker)
                if trouble:
                    return trouble
        return ""

    def write_status(self, ingress: dict, status: dict) -> None:
        """Write a status unless it is there already."""
        if status != (ingress.get("status") or {}):
            namespace, name = kube.key_of(ingress)
            # of this version only: a status must not describe a spec that was not looked at
            body = {"metadata": {"resourceVersion": ingress["metadata"]["resourceVersion"]}, "status": status}
            self.api.request("PATCH", f"{INGRESSES}/namespaces/{namespace}/ingresses/{name}/status", body, "application/merge-patch+json")


def serve_health(controller: Controller, port: int = 8080) -> None:
    """Answer the kubelet's probes: ready once everything was listed."""

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path != "/readiness" or controller.synced() else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    threading.Thread(target=http.server.ThreadingHTTPServer(("", port), Health).serve_forever, daemon=True).start()
