"""From the first release set to its successor on a running cluster, while a client keeps asking."""

import http.client
import itertools
import threading
import time

import pytest

SERVICE = """
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: helloworld-upgrade, namespace: default}
spec:
  template:
    spec:
      containers:
        - image: gcr.io/knative-samples/helloworld-go
          imagePullPolicy: IfNotPresent
          env: [{name: TARGET, value: Go Sample v1}]
          resources: {requests: {cpu: 25m, memory: 32Mi}}
"""
LONGEST_OUTAGE = 5.0  # seconds


class Client(threading.Thread):
    """Asks ten times a second, one request after the other, for at most ten minutes; notes its answers and failures."""

    def __init__(self, gateway: str, host: str):
        super().__init__(daemon=True)
        self.gateway, self.host, self.stop = gateway, host, threading.Event()
        self.answered, self.failures, self.ended = [], [], 0.0

    def run(self) -> None:
        for _ in range(6000):
            if self.stop.wait(0.1):
                break
            self.ask()
        self.ended = time.monotonic()

    def ask(self) -> None:
        connection = http.client.HTTPConnection(self.gateway, timeout=10)
        try:
            connection.request("GET", "/", headers={"Host": self.host})
            response = connection.getresponse()
            said = f"{response.status} {response.read().decode().strip()}"
        except OSError as error:
            said = repr(error)
        finally:
            connection.close()
        if said == "200 Hello Go Sample v1!":
            self.answered.append(time.monotonic())
        else:
            self.failures.append((time.monotonic(), said))

    def outages(self) -> list[float]:
        """From each good answer to the next one or to the end, in seconds, longest first: a request that hangs counts, too."""
        return sorted((after - before for before, after in itertools.pairwise([*self.answered, self.ended])), reverse=True)


@pytest.mark.cluster
def test_upgrade_under_requests(on_cluster, kubectl, gateway):
    before = on_cluster("site.yml", "-e", "platform_release=serving-1.14", "-e", "platform_smoke=true")
    assert before.code == 0, before.output

    kubectl("apply", "--filename=-", given=SERVICE)
    kubectl("wait", "ksvc/helloworld-upgrade", "--for=condition=Ready", "--timeout=120s")
    host = kubectl("get", "ksvc/helloworld-upgrade", "--output=jsonpath={.status.url}").removeprefix("http://")
    client = Client(gateway, host)
    client.start()
    try:
        upgrade = on_cluster("site.yml", "-e", "platform_release=serving-1.15", "--skip-tags", "smoke")
    finally:
        client.stop.set()
        client.join(30)
        kubectl("delete", "ksvc/helloworld-upgrade", "--wait=false")
    assert upgrade.code == 0, upgrade.output
    assert upgrade.recap("changed") > 0

    after = on_cluster("playbooks/smoke.yml", "-e", "platform_release=serving-1.15")
    assert after.code == 0, after.output

    assert client.answered and client.ended, client.failures[:20]
    longest = client.outages()[0]
    answers = f"{len(client.answered)} answers, {len(client.failures)} failures"
    print(f"{upgrade.seconds:.0f} s of upgrade, {answers}; longest outage {longest:.1f} s")
    assert longest <= LONGEST_OUTAGE, client.failures[:20]
