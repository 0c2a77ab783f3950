"""Checks of inputs: what is accepted, and that each refusal says what to write instead."""

from __future__ import annotations

import pytest

from ansible_collections.mlops.platform.plugins.module_utils import inputs


def test_workloads_are_the_known_ones():
    [line] = problems({"wep": {"replicas": 2}}, type="workloads", choices=["web"])
    assert "unknown workload 'wep'; known are web" in line


def problems(value, **rule):
    return inputs.check([{"variable": "x", **rule}], {"x": value}.__getitem__)


GOOD = [
    ("count", 0), ("count", 3), ("count", "12"),
    ("port", 31380), ("port", "443"),
    ("bool", True), ("bool", "false"),
    ("domain", "example.com"), ("domain", "127.0.0.1.sslip.io"), ("domain", "localhost"), ("domain", "a" * 63 + ".b"),
    ("dns_label", "istio-ingress"), ("dns_label", "a"), ("dns_label", "0a"),
    ("quantity", "500m"), ("quantity", 2), ("quantity", 0.5), ("quantity", "1.5Gi"), ("quantity", "1e3"),
    ("quantity", "128974848"), ("quantity", "2k"),
    ("duration", "90s"), ("duration", "1h30m"), ("duration", "0"), ("duration", "1.5h"), ("duration", "100ms"),
    ("url", "https://example.com"), ("url", "http://127.0.0.1:8080/x"),
    ("resources", {}), ("resources", {"requests": {"cpu": "100m", "nvidia.com/gpu": 1}, "limits": {"memory": "1Gi"}}),
    ("quantities", {"cpu": "2"}),
    ("tolerations", []), ("tolerations", [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, {"operator": "Exists"}]),
    ("tolerations", [{"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 30}]),
    ("node_selector", {}), ("node_selector", {"kubernetes.io/os": "linux", "disk": ""}),
    ("workloads", {}),
    ("workloads", {"web": {"replicas": 0, "resources": {"requests": {"cpu": 1}}, "node_selector": {}, "tolerations": []}}),
    ("ip", "192.0.2.1"), ("ip", "2001:db8::1"), ("cidr", "10.0.0.0/8"), ("email", "a@example.com"), ("string", "anything"),
    ("gcp_project", "my-project"), ("gcp_project", "a23456"), ("gcp_project", "a" * 30),
]  # fmt: skip

BAD = [
    ("workloads", {"web": {"replicas": -2}}, "web.replicas: -2, which is less than 0", "0 or more"),
    ("workloads", {"web": {"replica": 2}}, "unknown key 'replica'", "replicas"),
    ("workloads", {"web": {"resources": {"cpu": 1}}}, "web.resources", "requests"),
    ("workloads", {"web": 2}, "web, which is not a mapping", "{web: {replicas: 2}}"),
    ("workloads", ["web"], "is not a mapping", "{name of the workload: {replicas: 2}}"),
    ("count", "two", "'two' is not a whole number", "digits"),
    ("count", 1.5, "is not a whole number", "digits"),
    ("count", True, "true is not a whole number", "digits"),
    ("count", -1, "-1 is less than 0", "write 0 or more"),
    ("port", 70000, "is not a port", "1 to 65535"),
    ("port", "http", "is not a port number", "digits"),
    ("bool", "maybe", "neither true nor false", "true or false"),
    ("domain", "exam_ple.com", "label 'exam_ple' contains '_'", "small letters"),
    ("domain", "Example.com", "label 'Example' has capital letters", "small letters"),
    ("domain", "-a.com", "label '-a' starts or ends with a hyphen", "small letters"),
    ("domain", "a..com", "label '' is empty", "small letters"),
    ("domain", "a" * 64 + ".com", "has 64 characters", "small letters"),
    ("domain", "a.b." * 70 + "com", "253", "shorter"),
    ("domain", "https://a.com", "is an address", "without scheme"),
    ("domain", "a.com:80", "contains ':'", "without port"),
    ("domain", "a.com.", "ends with a dot", "write a.com"),
    ("domain", "192.0.2.1", "ends with a number", "sslip.io"),
    ("domain", 7, "is not a domain", "example.com"),
    ("dns_label", "My_Name", "has capital letters", "small letters"),
    ("dns_label", "a.b", "contains '.'", "small letters"),
    ("quantity", "256MB", "is not a resource quantity", "write 256M"),
    ("quantity", "1 Gi", "is not a resource quantity", "write 1Gi"),
    ("quantity", "10K", "is not a resource quantity", "write 10k"),
    ("quantity", "2gi", "is not a resource quantity", "write 2Gi"),
    ("quantity", "2gb", "is not a resource quantity", "write 2G"),
    ("quantity", "-1", "is negative", "0 or more"),
    ("quantity", "lots", "is not a resource quantity", "256Mi"),
    ("duration", 90, "has no unit", "write 90s"),
    ("duration", "1d", "days", "write 24h"),
    ("duration", "5 minutes", "is not a duration", "write 5m"),
    ("duration", "soon", "is not a duration", "1h30m"),
    ("url", "example.com", "does not start with https://", "https://example.com"),
    ("url", "https://", "names no host", "https://"),
    ("url", "https://a b", "contains a space", "https://"),
    ("url", "https://a:port", "is not a URL", "https://"),
    ("path_exists", "/does/not/exist", "does not exist", "something that exists"),
    ("resources", {"cpu": "1"}, "unknown key 'cpu'", "under requests and limits"),
    ("resources", {"requests": {"memory": "256m"}}, "thousandths of a byte", "write 256Mi"),
    ("resources", {"requests": {"cpu": "2"}, "limits": {"cpu": "500m"}}, "more cpu (2) than its limit (500m)", "raise the limit"),
    ("resources", {"limits": {"memory": "1GB"}}, "under limits has memory: '1GB'", "write 1G"),
    ("resources", "1", "is not a mapping", "requests"),
    ("quantities", ["1"], "is not a mapping", "cpu"),
    ("tolerations", {"key": "a"}, "is not a list", "[{key"),
    ("tolerations", ["a"], "in item 1 no mapping", "key"),
    ("tolerations", [{"key": "a", "operator": "exists"}], "operator 'exists'", "Exists or Equal"),
    ("tolerations", [{"key": "a", "operator": "Exists", "effect": "NoScheduling"}], "effect 'NoScheduling'", "NoSchedule"),
    ("tolerations", [{"key": "a", "operator": "Exists", "value": "b"}], "a value for the operator Exists", "leave the value out"),
    ("tolerations", [{"key": "a", "value": True}], "value true", "quotes"),
    ("tolerations", [{"effect": "NoSchedule"}], "no key", "operator: Exists"),
    ("tolerations", [{"keys": "a"}], "unknown key 'keys'", "known are"),
    ("tolerations", [{"key": "a", "tolerationSeconds": 3}], "tolerationSeconds without", "NoExecute"),
    ("node_selector", {"gpu": True}, "gpu: true", "'true'"),
    ("node_selector", {"a b": "c"}, "label 'a b'", "disktype"),
    ("node_selector", {"a": "b c"}, "not a label's value", "63"),
    ("node_selector", ["a"], "is not a mapping", "label"),
    ("ip", "300.1.1.1", "is not an IP address", "192.0.2.10"),
    ("cidr", "10.0.0.1/8", "is not a network", "write 10.0.0.0/8"),
    ("cidr", "x", "is not a network", "192.0.2.0/24"),
    ("email", "me", "is not an e-mail", "name@example.com"),
    ("gcp_project", "My-Project", "is not the ID of a Google Cloud project", "my-project"),
    ("gcp_project", "short", "is not the ID", "6 to 30"),
    ("gcp_project", "ends-with-dash-", "is not the ID", "6 to 30"),
    ("gcp_project", "a" * 31, "is not the ID", "6 to 30"),
    ("gcp_project", "123456789012", "is the number of a project", "its ID"),
    ("gcp_project", 123456789012, "is not the ID", "6 to 30"),
    ("string", 5, "is not a string", "quotes"),
]


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_accepted(kind, value):
    assert problems(value, type=kind) == []


@pytest.mark.parametrize(("kind", "value", "what", "instead"), BAD)
def test_refused(kind, value, what, instead):
    [line] = problems(value, type=kind)
    assert line.startswith("x: ")
    assert what in line and instead in line, line


def test_limits():
    assert problems(0, type="count", min=1) == ["x: 0 is less than 1; write 1 or more"]
    assert problems("2Gi", type="quantity", max="1Gi") == ["x: '2Gi' is more than 1Gi; write 1Gi or less"]
    assert problems("5s", type="duration", min="6s") == ["x: '5s' is less than 6s; write 6s or more"]
    assert problems("abc", type="string", max=2) == ["x: 'abc' has 3 characters; it may have 2"]


def test_choice_proposes_the_right_spelling():
    rule = {"type": "choice", "choices": ["Serverless", "RawDeployment"]}
    assert problems("Serverless", **rule) == []
    assert problems("serverless", **rule) == ["x: 'serverless' is not a known choice; write Serverless"]
    assert "write one of Serverless, RawDeployment" in problems("raw", **rule)[0]


def test_pattern_and_hint():
    rule = {"pattern": r"^[a-z]+$", "hint": "it is shown in the console"}
    assert problems("abc", **rule) == []
    assert problems("ABC", **rule) == ["x: 'ABC' does not have the right form; it must match ^[a-z]+$; it is shown in the console"]


def test_path_kinds(tmp_path):
    assert problems(str(tmp_path), type="path_exists", kind="directory") == []
    assert "is not a file" in problems(str(tmp_path), type="path_exists", kind="file")[0]


def test_optional_and_required():
    for unset in (None, ""):
        assert problems(unset, type="domain") == []
        assert problems(unset, type="domain", required=True) == ["x: is not set; set it to a DNS name such as example.com"]
    assert inputs.check([{"variable": "y", "type": "port"}], {}.__getitem__) == []
    assert inputs.check([{"variable": "y", "required": True, "hint": "see the README"}], {}.__getitem__) == [
        "y: is not set; see the README"
    ]


def test_zero_and_false_are_set():
    assert problems(0, type="count", required=True) == []
    assert problems(False, type="bool", required=True) == []


@pytest.mark.parametrize("kind", sorted(set(inputs.TYPES) - {"string", "bool"}))
def test_secrets_are_never_shown(kind):
    [line] = problems("s3cr et:§", type=kind, secret=True, choices=["a"] if kind == "choice" else None)
    assert line.startswith("x: (hidden) is not ")
    assert "s3cr" not in line and "§" not in line


def test_each():
    assert problems([1, "b", -1], type="count", each=True) == [
        "x[1]: 'b' is not a whole number; write digits only",
        "x[2]: -1 is less than 0; write 0 or more",
    ]
    assert problems({"a": "1", "b": "z"}, type="count", each=True) == ["x.b: 'z' is not a whole number; write digits only"]
    assert "neither a list nor a mapping" in problems("z", type="count", each=True)[0]


def test_value_of_the_rule_wins():
    assert inputs.check([{"variable": "x", "type": "count", "value": 2}], {"x": "two"}.__getitem__) == []


def test_all_at_once_in_one_message():
    rules = [{"variable": "a", "type": "count"}, {"variable": "b", "type": "port"}, {"variable": "c", "type": "domain"}]
    found = inputs.check(rules, {"a": "x", "b": 0, "c": "ok.com"}.__getitem__)
    text = inputs.message(found)
    assert text.splitlines()[0] == "2 inputs are not usable:"
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:]] == ["a", "b"]


@pytest.mark.parametrize("rule", [{"type": "count"}, "x", {"variable": "x", "type": "cuont"}, {"variable": "x", "minimum": 1}])
def test_rules_with_faults(rule):
    with pytest.raises(inputs.RuleError):
        inputs.check([rule], {"x": 1}.__getitem__)


def test_long_values_are_cut():
    assert len(problems("x" * 5000, type="port")[0]) < 200
