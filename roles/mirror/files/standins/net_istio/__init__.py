"""Stand-in for Knative's net-istio controller (gcr.io/knative-releases/knative.dev/net-istio/cmd/controller).

Where the platform is built from packages, the real controller's module cannot be had. This one does what traffic and
readiness need, in the same way: a VirtualService for each KIngress on the external and the cluster-local gateway, and a
status that becomes Ready only once every ready gateway pod answers probes with the configuration's hash.
Left out: TLS (auto-TLS, HTTP→HTTPS redirects, internal encryption), VirtualServices for the sidecars of a mesh,
gateways chosen by labelSelector. A KIngress that needs the first or a config-istio with the last says so in its status.
"""
