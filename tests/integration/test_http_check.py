"""HTTP checks against servers on this machine."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import importlib
import json
import ssl
import threading

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.mlops.platform.plugins.module_utils.http_probe import Expectation, Request, until_expected


@contextlib.contextmanager
def serving(answer, context=None):
    """A server that answers with what `answer(handler, number of the request)` returns: status and body."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append(
                {"method": self.command, "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}, "body": body}
            )
            status, text, *more = answer(len(seen))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            for name, value in more:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def test_requests_are_repeated_until_the_answer_is_the_expected_one():
    with serving(lambda n: (404, "no route") if n < 4 else (200, " Hello Go Sample v1!\n")) as (url, seen):
        result = until_expected(Request(f"{url}/a?b=c", host="hello.example.com"), Expectation(body="Hello Go Sample v1!"), 10)
    assert result.complaint == "" and result.attempts == 4 and 0.5 <= result.seconds <= 3
    assert seen[0]["headers"]["host"] == "hello.example.com" and seen[0]["path"] == "/a?b=c"


def test_the_environments_proxy_is_not_used_but_one_asked_for_is(monkeypatch):
    with serving(lambda n: (200, "direct")) as (url, _), serving(lambda n: (200, "by proxy")) as (proxy, seen):
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        assert Request(url).send().body == "direct"
        assert Request(f"{url}/x", proxy=proxy).send().body == "by proxy"
        assert seen[0]["path"] == f"{url}/x"


def test_a_redirect_is_an_answer():
    with serving(lambda n: (302, "", ("Location", "https://accounts.example.com/"))) as (url, _):
        result = until_expected(Request(url), Expectation(statuses=[302]), 5)
    assert not result.complaint and result.answer.headers["location"] == "https://accounts.example.com/"


@pytest.mark.parametrize(
    ("body", "expected", "same"),
    [
        ('{"predictions": [1, 1]}', {"predictions": [1, 1]}, True),
        ('{"predictions": [1.0, 1]}', {"predictions": [1, 1]}, True),
        ('{"b": 1, "a": [true]}', {"a": [True], "b": 1}, True),
        ('{"a": true}', {"a": 1}, False),
        ('{"predictions": [1]}', {"predictions": [1, 1]}, False),
        ("null", None, True),
        ("[1", [1], False),
    ],
)
def test_json_is_compared_as_a_value(body, expected, same):
    with serving(lambda n: (200, body)) as (url, _):
        result = until_expected(Request(url), Expectation(json=expected, has_json=True), 0)
    assert (result.complaint == "") is same


def test_a_server_that_does_not_answer_in_time_is_asked_again():
    pause = threading.Event()

    def answer(n):
        if n == 1:
            pause.wait(5)
        return 200, "late"

    with serving(answer) as (url, _):
        result = until_expected(Request(url, timeout=0.5), Expectation(), 10)
        pause.set()
    assert result.complaint == "" and result.attempts == 2


def certificate_for(tmp_path, name):
    """Files of a self-signed certificate and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        subject, subject, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1)
    )
    certificate = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False).sign(key, hashes.SHA256())
    (tmp_path / "crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key").write_bytes(key.private_bytes(*form))
    return str(tmp_path / "crt"), str(tmp_path / "key")


def test_tls_asks_for_the_hosts_name_and_checks_it(tmp_path):
    certificate, key = certificate_for(tmp_path, "kubeflow.example.com")
    asked = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda sock, name, ctx: asked.append(name)
    with serving(lambda n: (200, "secure"), context) as (url, _):
        assert Request(url, host="kubeflow.example.com", ca_path=certificate).send().body == "secure"
        assert asked == ["kubeflow.example.com"]
        assert "CERTIFICATE_VERIFY_FAILED" in Request(url, host="other.example.com", ca_path=certificate).send().error
        assert "CERTIFICATE_VERIFY_FAILED" in Request(url, host="kubeflow.example.com").send().error
        assert Request(url, validate_certs=False).send().body == "secure"


class Exit(Exception):
    """What the module ended with."""


@pytest.fixture
def run_module(monkeypatch):
    """Runs the module in this process: run_module(check=False, **parameters) returns what it answers."""
    module = importlib.import_module("ansible_collections.mlops.platform.plugins.modules.http_check")

    class Recorder(module.AnsibleModule):
        def exit_json(self, **answer):
            raise Exit({"failed": False} | answer)

        def fail_json(self, msg, **answer):
            raise Exit({"failed": True, "msg": msg} | answer)

    def run(check=False, **parameters):
        from ansible.module_utils import basic

        arguments = {"ANSIBLE_MODULE_ARGS": parameters | {"_ansible_check_mode": check, "_ansible_remote_tmp": "/tmp"}}
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps(arguments).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
        monkeypatch.setattr(module, "AnsibleModule", Recorder)
        with pytest.raises(Exit) as ended:
            module.main()
        return ended.value.args[0]

    return run


def test_the_module_sends_and_returns_json(run_module):
    with serving(lambda n: (200, '{"predictions": [1, 1]}')) as (url, seen):
        answer = run_module(url=url, host="iris.example.com", body={"instances": [[6.8]]}, expect_json={"predictions": [1, 1]})
    assert not answer["failed"] and answer["changed"] is False and answer["json"] == {"predictions": [1, 1]}
    assert answer["attempts"] == 1 and answer["seconds"] == round(answer["seconds"], 1)
    assert seen[0]["method"] == "POST" and json.loads(seen[0]["body"]) == {"instances": [[6.8]]}
    assert seen[0]["headers"]["content-type"] == "application/json"


def test_the_module_shows_no_token(capsys):
    module = importlib.import_module("ansible_collections.mlops.platform.plugins.modules.http_check")
    arguments = {"token": "of-the-test", "timeout": 0.5}
    with (
        serving(lambda n: (403, "not you: of-the-test")) as (url, seen),
        patch_module_args({"url": url, **arguments}),
        pytest.raises(SystemExit),
    ):
        module.main()
    said = capsys.readouterr().out
    assert seen[0]["headers"]["authorization"] == "Bearer of-the-test"
    assert "status 403" in said and "of-the-test" not in said


def test_the_module_says_the_last_answer(run_module):
    with serving(lambda n: (503, "x" * 400)) as (url, _):
        answer = run_module(url=url, host="iris.example.com", timeout=1)
    assert answer["failed"] and answer["attempts"] > 1
    assert f"GET {url} (Host iris.example.com) is not answered as expected after {answer['attempts']} attempts" in answer["msg"]
    assert f"status 503, body '{'x' * 300}'…" in answer["msg"] and "expected status 200" in answer["msg"]


def test_the_module_says_that_nobody_listens(run_module):
    answer = run_module(url="http://127.0.0.1:1/", timeout=0.5)
    assert answer["failed"] and "Connection refused" in answer["msg"]


def test_the_module_blames_what_the_answer_depends_on(run_module, api_server):
    with serving(lambda n: (404, "no route")) as (url, _):
        answer = run_module(
            url=url, timeout=1, kubeconfig=api_server, blame=[{"kind": "Deployment", "name": "nobody", "namespace": "default"}]
        )
    assert answer["failed"] and "deployment/default/nobody: does not exist" in answer["msg"]


def test_check_mode_asks_once_and_never_posts(run_module):
    with serving(lambda n: (500, "no")) as (url, seen):
        assert not run_module(check=True, url=url)["failed"]
        assert run_module(check=True, url=url, body="x")["skipped"]
    assert [each["method"] for each in seen] == ["GET"]
