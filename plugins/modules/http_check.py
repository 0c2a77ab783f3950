#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask an HTTP endpoint until it answers what is expected."""

from __future__ import annotations

DOCUMENTATION = r"""
module: http_check
short_description: Ask an HTTP endpoint until it answers what is expected, or say what it answered and who is to blame
description:
  - Repeats a request until the answer has the expected status, body or JSON value, and reports how long that took.
  - The environment's proxies are not used, redirects are not followed - a redirect is an answer that can be expected.
  - On failure says the last answer and, if O(blame) names Kubernetes objects, why those are not ready. If it becomes clear from
    these objects that the answer will not come, the module fails before O(timeout).
  - Never changes anything itself. In check mode a request is sent once if its method is GET, HEAD or OPTIONS, and the module does not fail.
version_added: 1.0.0
extends_documentation_fragment:
  - mlops.platform.cluster
options:
  url:
    description: What to ask, such as V(http://127.0.0.1:31380/path).
    type: str
    required: true
  host:
    description: Value of the Host header. With TLS also the name that is asked for and that the certificate must carry.
    type: str
  method:
    description: Method. By default V(POST) with O(body), else V(GET).
    type: str
  body:
    description: What to send. A mapping or a list is sent as JSON.
    type: raw
  headers:
    description: More request headers.
    type: dict
    default: {}
  token:
    description: Bearer token of who asks. It is shown nowhere.
    type: str
  expect_status:
    description: The statuses that are expected.
    type: list
    elements: int
    default: [200]
  expect_body:
    description: The whole body as text, compared without white space around it.
    type: str
  expect_json:
    description: The body as a JSON value; a string is read as JSON text if it is such. Order of keys and spelling of numbers do not matter.
    type: raw
  timeout:
    description: Seconds after which the attempts end.
    type: float
    default: 60
  request_timeout:
    description: Seconds that one attempt may take.
    type: float
    default: 10
  proxy:
    description: A proxy to use, such as V(http://proxy.example.com:3128).
    type: str
  validate_certs:
    description: Whether to check the server's certificate.
    type: bool
    default: true
  ca_path:
    description: File with the authorities to trust.
    type: path
  blame:
    description: Kubernetes objects that the answer depends on, given as to M(mlops.platform.k8s_ready).
    type: list
    elements: dict
    default: []
  grace:
    description: Seconds for which a cause found at O(blame) that may still pass is put up with.
    type: float
    default: 30
author:
  - MLOps Platform (@mlops-platform)
"""

EXAMPLES = r"""
- name: The sample answers through the gateway
  mlops.platform.http_check:
    url: http://127.0.0.1:31380/
    host: helloworld-go.default.example.com
    expect_body: Hello Go Sample v1!
    blame:
      - {kind: Service, apiVersion: serving.knative.dev/v1, name: helloworld-go, namespace: default}

- name: The model predicts
  mlops.platform.http_check:
    url: http://127.0.0.1:31380/v1/models/sklearn-iris:predict
    host: sklearn-iris.kserve-test.example.com
    body: {instances: [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}
    expect_json: {predictions: [1, 1]}
"""

RETURN = r"""
status:
  description: Status of the last answer, none if there was no answer.
  returned: always
  type: int
body:
  description: Body of the last answer.
  returned: always
  type: str
json:
  description: The body as a JSON value.
  returned: when it is JSON
  type: raw
headers:
  description: Headers of the last answer, names in lower case.
  returned: always
  type: dict
attempts:
  description: How many requests were sent.
  returned: always
  type: int
seconds:
  description: Time from the first request to the last answer.
  returned: always
  type: float
  sample: 3.2
"""

import contextlib
import json
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.mlops.platform.plugins.module_utils import http_probe

try:
    from ansible_collections.mlops.platform.plugins.module_utils import ready
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, ClusterError

    MISSING = None
except ImportError:  # only needed to blame Kubernetes objects
    MISSING = traceback.format_exc()

BLAME_AFTER = 5.0  # seconds; earlier the answer is simply still to come


class Blame:
    """Watches the objects that the answer depends on."""

    def __init__(self, params: dict):
        self._wait, self.trouble = None, ""
        try:
            if params["blame"]:
                targets = [ready.Target.parse(spec) for spec in params["blame"]]
                self._wait = ready.Wait(Cluster(params["kubeconfig"], params["context"]), targets, grace=params["grace"])
        except ClusterError as error:
            self.trouble = str(error)

    def hopeless(self) -> str:
        """Why the answer will not come, if that is known."""
        if not self._wait or self._wait.elapsed < BLAME_AFTER:
            return ""
        try:
            return self._wait.hopeless()
        except ClusterError as error:
            self.trouble = str(error)
            return ""

    def explain(self) -> str:
        """Why the objects are not ready."""
        if not self._wait:
            return self.trouble and f"What it depends on is not known: {self.trouble}"
        try:
            self._wait.diagnose(self._wait.look(everything=True))
        except ClusterError as error:
            return f"What it depends on is not known: {error}"
        if self._wait.pending:
            return self._wait.explain([])
        return "What it depends on is ready: " + ", ".join(str(item.target) for item in self._wait.awaited)


def request_of(params: dict) -> http_probe.Request:
    """The request that the parameters ask for."""
    body, headers = params["body"], {str(name): str(value) for name, value in params["headers"].items()}
    if body is not None and not isinstance(body, str):
        body = json.dumps(body)
        if not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/json"
    if params.get("token"):
        headers["Authorization"] = f"Bearer {params['token']}"
    return http_probe.Request(
        url=params["url"],
        method=(params["method"] or ("GET" if body is None else "POST")).upper(),
        host=params["host"],
        headers=headers,
        body=None if body is None else body.encode(),
        timeout=params["request_timeout"],
        proxy=params["proxy"],
        validate_certs=params["validate_certs"],
        ca_path=params["ca_path"],
    )


def expectation_of(params: dict) -> http_probe.Expectation:
    """What the parameters expect."""
    value = params["expect_json"]
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # else it is meant as a plain string
            value = json.loads(value)
    return http_probe.Expectation(params["expect_status"], params["expect_body"], value, params["expect_json"] is not None)


def report(result: http_probe.Result) -> dict:
    """What the module returns about the attempts."""
    answer = result.answer
    found = {
        "changed": False,
        "status": answer.status,
        "body": answer.body,
        "headers": answer.headers,
        "attempts": result.attempts,
        "seconds": result.seconds,
    }
    with contextlib.suppress(ValueError):
        found["json"] = json.loads(answer.body)
    return found


def main() -> None:
    """Ask, and judge the answers."""
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "url": {"type": "str", "required": True},
            "host": {"type": "str"},
            "method": {"type": "str"},
            "body": {"type": "raw"},
            "headers": {"type": "dict", "default": {}},
            "token": {"type": "str", "no_log": True},
            "expect_status": {"type": "list", "elements": "int", "default": [200]},
            "expect_body": {"type": "str"},
            "expect_json": {"type": "raw"},
            "timeout": {"type": "float", "default": 60},
            "request_timeout": {"type": "float", "default": 10},
            "proxy": {"type": "str"},
            "validate_certs": {"type": "bool", "default": True},
            "ca_path": {"type": "path"},
            "blame": {"type": "list", "elements": "dict", "default": []},
            "grace": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["blame"] and MISSING:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=MISSING)
    if not params["url"].startswith(("http://", "https://")):
        module.fail_json(msg=f"url must begin with http:// or https://, not {params['url']!r}")
    request, expected = request_of(params), expectation_of(params)
    if module.check_mode:
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            module.exit_json(changed=False, skipped=True, msg=f"{request.method} requests are not sent in check mode")
        result = http_probe.until_expected(request, expected, 0)
        module.exit_json(msg=result.complaint, **report(result))
    blame = Blame(params)
    result = http_probe.until_expected(request, expected, params["timeout"], blame.hopeless)
    if not result.complaint:
        module.exit_json(**report(result))
    asked = f"{request.method} {request.url}" + (f" (Host {request.host})" if request.host else "")
    tried = f"after {result.attempts} attempt{'s' if result.attempts > 1 else ''} in {result.seconds:.1f} s"
    last = f"last answer: {result.answer}" + ("" if result.answer.error else f"; {result.complaint}")
    reasons = result.hopeless or blame.explain()
    module.fail_json(msg=f"{asked} is not answered as expected {tried}; {last}." + (f"\n{reasons}" if reasons else ""), **report(result))


if __name__ == "__main__":
    main()
