"""A stand-in for the API of Kubeflow Pipelines on loopback, for tests: `python kfp_api_stand_in.py <port file> <log of requests>`.

It runs nothing. What it is sent must be what kfp-server-api and the specification of pipelines know, and so is what it answers. It is run
by the Python of the SDK's virtual environment, where these are. A run of a name that starts with `fails` fails in its last task; one that
starts with `stays` never ends.
"""

import http.server
import json
import re
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

USER = "accounts.google.com:ada@example.com"
CLIENT = api.ApiClient()
EXPERIMENTS, RUNS = {}, {}
PORT_FILE, LOG = sys.argv[1:]


class Refused(Exception):
    """A request that the API would not take."""


def read(body: bytes, kind: str):
    """The request as the model of that kind; what the model does not know is refused."""
    model, data = getattr(api, kind), json.loads(body)
    unknown = set(data) - set(model.attribute_map.values())
    if unknown:
        raise Refused(f"unknown field {sorted(unknown)[0]!r} of {kind}")

    class Text:
        data = body.decode()

    return CLIENT.deserialize(Text, kind)


def experiment(body: bytes):
    """Make an experiment."""
    made = read(body, "V2beta1Experiment")
    if not made.display_name or made.namespace != "ada":
        raise Refused("an experiment needs a display_name and a namespace of the user")
    made.experiment_id = str(uuid.uuid4())
    made.created_at = datetime.now(UTC)
    EXPERIMENTS[made.experiment_id] = made
    return made


def run(body: bytes):
    """Start a run: its specification is checked, its arguments must be those of the pipeline."""
    made = read(body, "V2beta1Run")
    if made.experiment_id not in EXPERIMENTS:
        raise Refused(f"there is no experiment {made.experiment_id}")
    spec = json_format.ParseDict(made.pipeline_spec, pipeline_spec_pb2.PipelineSpec())
    known = spec.root.input_definitions.parameters
    for name in made.runtime_config.parameters or {}:
        if name not in known:
            raise Refused(f"the pipeline has no parameter {name}")
    made.run_id, made.created_at, made.state = str(uuid.uuid4()), datetime.now(UTC), "PENDING"
    made.run_details = api.V2beta1RunDetails(task_details=[])
    made.looks = 0
    made.steps = sorted(spec.root.dag.tasks)
    RUNS[made.run_id] = made
    return made


def look(made):
    """A run, one step further each time."""
    made.looks += 1
    last = "FAILED" if made.display_name.startswith("fails") else "SUCCEEDED"
    ended = made.looks > 2 and not made.display_name.startswith("stays")
    made.state = last if ended else "RUNNING"
    details = [detail(made, "root", made.state, 0), detail(made, "root-driver", "SUCCEEDED", 0)]
    for number, name in enumerate(made.steps):
        state = "RUNNING" if not ended else last if number == len(made.steps) - 1 else "SUCCEEDED"
        details.append(detail(made, name, state, number + 1))
    made.run_details = api.V2beta1RunDetails(task_details=details)
    return made


def detail(made, name, state, second):
    """One task of a run."""
    error = api.GoogleRpcStatus(code=13, message="this step failed with exit code 1") if state == "FAILED" and second else None
    start = datetime.fromtimestamp(made.created_at.timestamp() + second, UTC)
    return api.V2beta1PipelineTaskDetail(
        run_id=made.run_id, task_id=str(uuid.uuid4()), display_name=name, state=state, start_time=start, error=error
    )


def listed(found, kind, what, query):
    """A page of those that there are, two a page: whoever reads them has to ask for the next one."""
    start = int(query.get("page_token") or 0)
    more = str(start + 2) if len(found) > start + 2 else None
    return getattr(api, kind)(**{what: found[start : start + 2]}, total_size=len(found), next_page_token=more)


class Handler(http.server.BaseHTTPRequestHandler):
    """The API."""

    def log_message(self, *args):
        """Say nothing."""

    def do_GET(self):
        """Answer."""
        self.answer(b"")

    def do_POST(self):
        """Answer."""
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body):
        """Answer what the request asks for."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        with open(LOG, "a") as log:
            log.write(f"{self.command} {url.path}\n")
        asks = self.headers.get("x-goog-authenticated-user-email"), self.headers.get("Authorization")
        if asks[0] != USER and asks[1] != "Bearer of-the-test":
            return self.send(401, {"error": "no user"})
        try:
            found = self.route(url.path.removeprefix("/pipeline/apis/v2beta1"), query, body)
        except (Refused, ValueError, json_format.ParseError) as error:
            return self.send(400, {"code": 3, "message": f"Invalid input: {error}"})
        return self.send(200, CLIENT.sanitize_for_serialization(found)) if found else self.send(404, {"message": "not found"})

    def route(self, path, query, body):
        """The object that is asked for, made or listed."""
        if self.command == "POST":
            return {"/experiments": experiment, "/runs": run}[path](body)
        if path == "/experiments":
            found = [item for item in EXPERIMENTS.values() if item.namespace == query["namespace"]]
            return listed(found, "V2beta1ListExperimentsResponse", "experiments", query)
        if path == "/runs":
            found = [item for item in RUNS.values() if item.experiment_id == query["experiment_id"]]
            return listed(found[::-1], "V2beta1ListRunsResponse", "runs", query)
        match = re.fullmatch(r"/runs/([0-9a-f-]+)", path)
        return look(RUNS[match[1]]) if match and match[1] in RUNS else None

    def send(self, status, answer):
        """Send it as JSON."""
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
with open(PORT_FILE, "w") as port:
    port.write(str(server.server_port))
while True:
    time.sleep(3600)
