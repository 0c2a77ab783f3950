# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of what users set: every problem with variable, value, what is wrong and what to write instead."""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from decimal import Decimal

RULE_KEYS = (
    "variable", "value", "type", "required", "min", "max", "choices", "pattern", "hint", "secret", "each", "kind", "schemes",
)  # fmt: skip

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_QUANTITY = re.compile(r"(?P<sign>[+-]?)(?P<number>\d+(\.\d*)?|\.\d+)(?P<suffix>|[numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)\Z")
_DURATION = re.compile(r"(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?\Z")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
_MULTIPLES = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


class RuleError(Exception):
    """A rule that cannot be understood: a fault of whoever wrote it, not of the user."""


class Wrong(Exception):
    """What is wrong with a value, and what to write instead."""

    def __init__(self, what: str, instead: str):
        super().__init__(f"{what}; {instead}")
        self.what, self.instead = what, instead


def check(rules: list[dict], look_up: Callable[[str], object]) -> list[str]:
    """Every problem, a line each. `look_up` gives a variable's value and raises KeyError where it is not set."""
    problems = []
    for rule in rules:
        _check_rule(rule)
        problems.extend(_check_one(rule, look_up))
    return problems


def message(problems: list[str]) -> str:
    """All problems as one text."""
    return "\n".join(
        [f"{len(problems)} input{' is' if len(problems) == 1 else 's are'} not usable:"] + [f"  {problem}" for problem in problems]
    )


def _check_rule(rule: object) -> None:
    if not isinstance(rule, Mapping) or not isinstance(rule.get("variable"), str):
        raise RuleError(f"a rule is a mapping with variable and type, this is {rule!r}")
    unknown = [key for key in rule if key not in RULE_KEYS]
    if unknown:
        raise RuleError(f"the rule for {rule['variable']} has the unknown key {unknown[0]!r}; known: {', '.join(RULE_KEYS)}")
    if rule.get("type", "string") not in TYPES:
        raise RuleError(f"the rule for {rule['variable']} has the unknown type {rule['type']!r}; known: {', '.join(TYPES)}")


def _check_one(rule: dict, look_up: Callable[[str], object]) -> list[str]:
    name, secret = rule["variable"], bool(rule.get("secret"))
    hint = f"; {rule['hint']}" if rule.get("hint") else ""
    try:
        value = rule["value"] if "value" in rule else look_up(name)
    except KeyError:
        value = None
    except Wrong as wrong:
        return [f"{name}: {'cannot be evaluated' if secret else wrong.what}; {wrong.instead}{hint}"]
    if value is None or (isinstance(value, str) and value == ""):
        if not rule.get("required"):
            return []
        instead = "" if hint else f"; set it to {_expected(rule)}"
        return [f"{name}: is not set{instead}{hint}"]
    problems = []
    for where, item in _items(name, value, rule):
        try:
            if item is _NOT_A_COLLECTION:
                raise Wrong("is neither a list nor a mapping", "write a list")
            TYPES[rule.get("type", "string")][0](item, rule)
        except Wrong as wrong:
            if secret:
                problems.append(f"{where}: (hidden) is not {_expected(rule)}{hint}")
            else:
                problems.append(f"{where}: {_shown(item if item is not _NOT_A_COLLECTION else value)} {wrong.what}; {wrong.instead}{hint}")
    return problems


_NOT_A_COLLECTION = object()


def _items(name: str, value: object, rule: dict):
    """The values to check: one, or with `each` those of a list or of a mapping."""
    if not rule.get("each"):
        return [(name, value)]
    if isinstance(value, Mapping):
        return [(f"{name}.{key}", item) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"{name}[{number}]", item) for number, item in enumerate(value)]
    return [(name, _NOT_A_COLLECTION)]


def _shown(value: object) -> str:
    text = repr(str(value)) if isinstance(value, str) else "true" if value is True else "false" if value is False else str(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _expected(rule: dict) -> str:
    expected = TYPES[rule.get("type", "string")][1]
    return f"one of {', '.join(map(str, rule['choices']))}" if rule.get("choices") else expected


# -- types: each raises Wrong


def _whole(value: object, what: str) -> int:
    text = str(value).strip() if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[+-]?\d+", text):
        raise Wrong(f"is not {what}", "write digits only")
    return int(text)


def _limits(value: float, rule: dict, low: object, high: object, parse: Callable[[object], float] = float) -> None:
    low, high = rule.get("min", low), rule.get("max", high)
    if low is not None and value < parse(low):
        raise Wrong(f"is less than {low}", f"write {low} or more")
    if high is not None and value > parse(high):
        raise Wrong(f"is more than {high}", f"write {high} or less")


def _count(value: object, rule: dict) -> None:
    _limits(_whole(value, "a whole number"), rule, 0, None)


def _port(value: object, rule: dict) -> None:
    number = _whole(value, "a port number")
    if not rule.get("min", 1) <= number <= rule.get("max", 65535):
        raise Wrong("is not a port number", f"write a number from {rule.get('min', 1)} to {rule.get('max', 65535)}")


def _bool(value: object, rule: dict) -> None:
    if isinstance(value, bool) or str(value).lower() in ("true", "false", "yes", "no"):
        return
    raise Wrong("is neither true nor false", "write true or false")


def _string(value: object, rule: dict) -> None:
    if not isinstance(value, str):
        raise Wrong("is not a string", "write it in quotes")
    if rule.get("choices"):
        _choice(value, rule)
    if rule.get("min") is not None and len(value) < int(rule["min"]):
        raise Wrong(f"has {len(value)} characters", f"it needs {rule['min']} or more")
    if rule.get("max") is not None and len(value) > int(rule["max"]):
        raise Wrong(f"has {len(value)} characters", f"it may have {rule['max']}")
    if rule.get("pattern") and not re.search(rule["pattern"], value):
        raise Wrong("does not have the right form", f"it must match {rule['pattern']}")


def _choice(value: object, rule: dict) -> None:
    choices = list(rule.get("choices") or [])
    if value not in choices:
        near = [choice for choice in choices if str(choice).lower() == str(value).lower()]
        raise Wrong("is not a known choice", f"write {near[0]}" if near else f"write one of {', '.join(map(str, choices))}")


def _label_fault(label: str) -> str | None:
    if not label:
        return "is empty"
    if len(label) > 63:
        return f"has {len(label)} characters, 63 are allowed"
    if label != label.lower():
        return "has capital letters"
    if label.startswith("-") or label.endswith("-"):
        return "starts or ends with a hyphen"
    bad = sorted(set(re.sub(r"[a-z0-9-]", "", label)))
    if bad:
        return f"contains {' '.join(repr(str(character)) for character in bad)}"
    return None if _LABEL.match(label) else "is not a label"


def _dns_label(value: object, rule: dict) -> None:
    if not isinstance(value, str):
        raise Wrong("is not a name", "write small letters, digits and hyphens, in quotes")
    fault = _label_fault(value)
    if fault:
        raise Wrong(
            f"is not a Kubernetes name: it {fault}", "write up to 63 small letters, digits and hyphens, a letter or digit at both ends"
        )


def _domain(value: object, rule: dict) -> None:
    if not isinstance(value, str):
        raise Wrong("is not a domain", "write a DNS name such as example.com")
    if "://" in value or "/" in value:
        raise Wrong("is an address, not a domain", "write the host's name only, without scheme and path")
    if ":" in value:
        raise Wrong("is not a domain: it contains ':'", "write the name without port")
    if len(value) > 253:
        raise Wrong(f"has {len(value)} characters, 253 are allowed", "write a shorter DNS name")
    if value.endswith("."):
        raise Wrong("ends with a dot", f"write {value.rstrip('.')}")
    labels = value.split(".")
    for label in labels:
        fault = _label_fault(label)
        if fault:
            raise Wrong(f"is not a domain: its label {str(label)!r} {fault}", "write small letters, digits and hyphens between the dots")
    if labels[-1].isdigit():
        raise Wrong("is not a domain: it ends with a number", "write a DNS name such as example.com (for an address: 192.0.2.1.sslip.io)")


def quantity(value: object) -> Decimal:
    """A Kubernetes resource quantity as a number; raises Wrong."""
    text = str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    match = _QUANTITY.match(text)
    if match:
        if match["sign"] == "-":
            raise Wrong("is negative", "write a quantity of 0 or more")
        number, suffix = Decimal(match["number"]), match["suffix"]
        if suffix in _MULTIPLES:
            return number.scaleb(_MULTIPLES[suffix])
        if suffix.endswith("i"):
            return number * Decimal(1024) ** ("KMGTPE".index(suffix[0]) + 1)
        return number.scaleb(int(suffix[1:]))
    guess = _guess_quantity(text)
    if guess:
        raise Wrong("is not a resource quantity", f"write {guess}")
    raise Wrong("is not a resource quantity", "write a number with an optional unit: 500m or 2 for CPUs, 256Mi or 2Gi for memory")


def _guess_quantity(text: str) -> str | None:
    """What somebody meant who wrote 256MB, 1 Gi, 10K or 2gb."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtpe])(i?)b?", re.sub(r"\s", "", text), re.IGNORECASE)
    if not match:
        return None
    number, unit, binary = match.groups()
    unit = unit.upper()
    return f"{number}{unit}i" if binary else f"{number}{'k' if unit == 'K' else unit}"


def _quantity(value: object, rule: dict) -> None:
    _limits(quantity(value), rule, 0, None, quantity)


def _quantities(value: object, rule: dict) -> None:
    if not isinstance(value, Mapping):
        raise Wrong("is not a mapping", "write {cpu: 500m, memory: 256Mi}")
    for name, amount in value.items():
        try:
            number = quantity(amount)
        except Wrong as wrong:
            raise Wrong(f"has {name}: {_shown(amount)}, which {wrong.what}", wrong.instead) from None
        if name in ("memory", "ephemeral-storage") and 0 < number < 1:
            raise Wrong(f"has {name}: {_shown(amount)}, thousandths of a byte", f"write {str(amount).rstrip('m')}Mi")


def _resources(value: object, rule: dict) -> None:
    if not isinstance(value, Mapping):
        raise Wrong("is not a mapping", "write {requests: {cpu: 500m, memory: 256Mi}, limits: {memory: 256Mi}}")
    for key in value:
        if key not in ("requests", "limits"):
            raise Wrong(f"has the unknown key {str(key)!r}", "write the quantities under requests and limits")
        try:
            _quantities(value[key] or {}, rule)
        except Wrong as wrong:
            raise Wrong(f"under {key} {wrong.what}", wrong.instead) from None
    limits = value.get("limits") or {}
    for name, amount in (value.get("requests") or {}).items():
        if name in limits and quantity(amount) > quantity(limits[name]):
            raise Wrong(f"requests more {name} ({amount}) than its limit ({limits[name]})", "raise the limit or lower the request")


def duration(value: object) -> float:
    """A Go duration (as Knative takes it) in seconds; raises Wrong."""
    text = str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    if text == "0":
        return 0.0
    if text and not _DURATION.sub("", text):
        return sum(float(number) * _SECONDS[unit] for number, _fraction, unit in _DURATION.findall(text))
    if re.fullmatch(r"\d+(\.\d+)?", text):
        raise Wrong("has no unit", f"write {text}s for seconds, {text}m for minutes")
    if re.fullmatch(r"\d+d(ays?)?", text):
        raise Wrong("is in days, which are not known here", f"write {int(re.match(r'[0-9]+', text)[0]) * 24}h")
    compact = re.sub(r"\s+", "", re.sub(r"(?<=\d)\s*(seconds?|secs?)\b", "s", re.sub(r"(?<=\d)\s*(minutes?|mins?)\b", "m", text)))
    compact = re.sub(r"(?<=\d)(hours?|hrs?)\b", "h", compact)
    if compact and not _DURATION.sub("", compact):
        raise Wrong("is not a duration", f"write {compact}")
    raise Wrong("is not a duration", "write numbers with units such as 90s, 5m or 1h30m")


def _duration(value: object, rule: dict) -> None:
    _limits(duration(value), rule, 0, None, duration)


def _url(value: object, rule: dict) -> None:
    schemes = rule.get("schemes") or ["https", "http"]
    example = f"write an address such as {schemes[0]}://example.com/path"
    if not isinstance(value, str):
        raise Wrong("is not a URL", example)
    try:
        parts = urllib.parse.urlsplit(value)
        _port_is_valid = parts.port
    except ValueError as error:
        raise Wrong(f"is not a URL: {error}", example) from None
    if parts.scheme not in schemes:
        raise Wrong(f"does not start with {' or '.join(f'{scheme}://' for scheme in schemes)}", example)
    if not parts.hostname or re.search(r"\s", value):
        raise Wrong("is not a URL: " + ("it contains a space" if parts.hostname else "it names no host"), example)


def _path_exists(value: object, rule: dict) -> None:
    if not isinstance(value, str):
        raise Wrong("is not a path", "write the path of a file")
    path = os.path.expanduser(value)
    kind = rule.get("kind", "any")
    if not os.path.exists(path):
        raise Wrong(f"does not exist{f' ({path})' if path != value else ''}", "write the path of something that exists")
    if kind == "file" and not os.path.isfile(path):
        raise Wrong("is not a file", "write the path of a file")
    if kind == "directory" and not os.path.isdir(path):
        raise Wrong("is not a directory", "write the path of a directory")


def _labels(value: object, rule: dict) -> None:
    if not isinstance(value, Mapping):
        raise Wrong("is not a mapping", "write {label: value}")
    for key, label in value.items():
        prefix, _slash, name = str(key).rpartition("/")
        if not _LABEL_NAME.match(name) or (prefix and any(_label_fault(part) for part in prefix.split("."))):
            raise Wrong(f"has the label {str(key)!r}, which is not one", "write such as disktype or example.com/disktype")
        if not isinstance(label, str):
            text = str(label).lower() if isinstance(label, bool) else label
            raise Wrong(f"has {key}: {_shown(label)}, which is not a string", f"write it in quotes: '{text}'")
        if not _LABEL_VALUE.match(label):
            raise Wrong(f"has {key}: {_shown(label)}, which is not a label's value", "write up to 63 letters, digits, and -_. between them")


def _tolerations(value: object, rule: dict) -> None:
    if not isinstance(value, (list, tuple)):
        raise Wrong("is not a list", "write [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]")
    for number, item in enumerate(value):
        where = f"has in item {number + 1}"
        if not isinstance(item, Mapping):
            raise Wrong(f"{where} no mapping", "write {key: …, operator: Exists}")
        unknown = [key for key in item if key not in ("key", "operator", "value", "effect", "tolerationSeconds")]
        if unknown:
            raise Wrong(f"{where} the unknown key {str(unknown[0])!r}", "known are key, operator, value, effect and tolerationSeconds")
        if item.get("operator", "Equal") not in ("Exists", "Equal"):
            raise Wrong(f"{where} the operator {_shown(item['operator'])}", "write Exists or Equal")
        if item.get("effect") not in (None, "", *_EFFECTS):
            raise Wrong(f"{where} the effect {_shown(item['effect'])}", f"write one of {', '.join(_EFFECTS)}")
        if item.get("operator") == "Exists" and item.get("value"):
            raise Wrong(f"{where} a value for the operator Exists", "leave the value out, or write the operator Equal")
        if not item.get("key") and item.get("operator") != "Exists":
            raise Wrong(f"{where} no key", "name the key, or write operator: Exists to tolerate everything")
        if item.get("value") is not None and not isinstance(item["value"], str):
            raise Wrong(f"{where} the value {_shown(item['value'])}, which is not a string", "write it in quotes")
        if item.get("tolerationSeconds") is not None and item.get("effect") != "NoExecute":
            raise Wrong(f"{where} tolerationSeconds without effect NoExecute", "write effect: NoExecute, or leave tolerationSeconds out")


def _workloads(value: object, rule: dict) -> None:
    """What the filter workload_patches takes, for the workloads that `choices` names."""
    if not isinstance(value, Mapping):
        raise Wrong("is not a mapping", "write {name of the workload: {replicas: 2}}")
    for name, settings in value.items():
        if rule.get("choices") and name not in rule["choices"]:
            raise Wrong(f"has the unknown workload {str(name)!r}", f"known are {', '.join(map(str, rule['choices']))}")
        if not isinstance(settings, Mapping):
            raise Wrong(f"has {name}, which is not a mapping", f"write {{{name}: {{replicas: 2}}}}")
        for key, item in settings.items():
            if key not in _WORKLOAD:
                raise Wrong(f"has in {name} the unknown key {str(key)!r}", f"known are {', '.join(_WORKLOAD)}")
            try:
                _WORKLOAD[key](item, {})
            except Wrong as wrong:
                raise Wrong(f"has {name}.{key}: {_shown(item)}, which {wrong.what}", wrong.instead) from None


_WORKLOAD = {"replicas": _count, "resources": _resources, "node_selector": _labels, "tolerations": _tolerations}


def _ip(value: object, rule: dict) -> None:
    try:
        ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        raise Wrong("is not an IP address", "write an address such as 192.0.2.10") from None


def _cidr(value: object, rule: dict) -> None:
    try:
        ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError as error:
        instead = "write a network such as 192.0.2.0/24"
        if "host bits" in str(error):
            instead = f"write {ipaddress.ip_network(value, strict=False)}"
        raise Wrong("is not a network", instead) from None


def _email(value: object, rule: dict) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value):
        raise Wrong("is not an e-mail address", "write one such as name@example.com")


def _gcp_project(value: object, rule: dict) -> None:
    what, instead = "is not the ID of a Google Cloud project", "write 6 to 30 lower-case letters, digits and dashes, such as my-project"
    if not isinstance(value, str):
        raise Wrong(what, instead)
    if value.isdigit():
        raise Wrong("is the number of a project", "write its ID, such as my-project (`gcloud projects list` shows both)")
    if not re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", value):
        raise Wrong(what, instead)


def _gpu_pool(value: object, rule: dict) -> None:
    from ansible_collections.mlops.platform.plugins.module_utils.gcp import gpu_pools

    if not isinstance(value, Mapping):
        raise Wrong("is not a mapping", "write {name: gpu, accelerator: nvidia-l4, max: 2}")
    try:
        gpu_pools.node_pool(dict(value))
    except gpu_pools.PoolError as error:
        raise Wrong(error.what, f"write {error.remedy}") from None


# type → check, what is expected in words
TYPES: dict[str, tuple[Callable[[object, dict], None], str]] = {
    "count": (_count, "a whole number"),
    "port": (_port, "a port number"),
    "bool": (_bool, "true or false"),
    "string": (_string, "a string of the right form"),
    "choice": (_choice, "a known choice"),
    "dns_label": (_dns_label, "a Kubernetes name"),
    "domain": (_domain, "a DNS name such as example.com"),
    "quantity": (_quantity, "a resource quantity such as 500m or 256Mi"),
    "quantities": (_quantities, "a mapping of resource quantities"),
    "resources": (_resources, "resources: {requests: {cpu: 500m, memory: 256Mi}}"),
    "duration": (_duration, "a duration such as 90s"),
    "url": (_url, "a URL"),
    "path_exists": (_path_exists, "the path of something that exists"),
    "labels": (_labels, "a mapping of labels"),
    "node_selector": (_labels, "a mapping of node labels"),
    "tolerations": (_tolerations, "a list of tolerations"),
    "workloads": (_workloads, "a mapping of workloads to what is set for them"),
    "ip": (_ip, "an IP address"),
    "cidr": (_cidr, "a network such as 192.0.2.0/24"),
    "email": (_email, "an e-mail address"),
    "gcp_project": (_gcp_project, "the ID of a Google Cloud project such as my-project"),
    "gpu_pool": (_gpu_pool, "a GPU pool such as {name: gpu, accelerator: nvidia-l4, max: 2}"),
}
