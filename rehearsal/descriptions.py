# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Google's API descriptions as a router and a validator: which method a URL means, and whether its parameters and body are as described."""

from __future__ import annotations

import base64
import binascii
import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qsl, unquote

from rehearsal.errors import Refused, violations


def _load() -> ModuleType:
    """The collection's own reader of descriptions, by its path: it is beside us, wherever the collection is installed."""
    path = Path(__file__).parents[1] / "plugins/module_utils/gcp/descriptions.py"
    spec = importlib.util.spec_from_file_location("rehearsal_descriptions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_DESCRIPTIONS = _load()
# More versions than the modules of this collection use: google.cloud's and gcloud speak these.
SERVED = {service: [version] for service, version in _DESCRIPTIONS.VERSIONS.items()} | {"cloudresourcemanager": ["v3", "v1"]}
# Google takes it, and gcloud sends it with every list; the description does not have it.
UNDESCRIBED = {"compute": {"returnPartialSuccess": {"location": "query", "type": "boolean"}}}

INTEGERS = {"int32": (-(2**31), 2**31 - 1), "uint32": (0, 2**32 - 1), "int64": (-(2**63), 2**63 - 1), "uint64": (0, 2**64 - 1)}
FORMATS = {
    "google-datetime": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"),
    "google-duration": re.compile(r"-?\d+(\.\d{1,9})?s"),
    "google-fieldmask": re.compile(r"[A-Za-z0-9_.,*]*"),
}


def snake(name: str) -> str:
    """Google's messages name fields so: releaseChannel → release_channel."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found[1].lower(), name)


def _kind(schema: dict) -> str:
    name = (schema.get("format") or schema["type"]).upper()
    return "TYPE_" + {"BOOLEAN": "BOOL", "BYTE": "BYTES"}.get(name, name)


class Description:
    """One service in one version."""

    def __init__(self, service: str, version: str):
        self.service, self.version = service, version
        self.document = _DESCRIPTIONS.description(service, version)
        self.title = self.document["title"]
        self.methods = {method["id"]: method for method in self._methods(self.document)}
        self._routes: dict[str, list] = {}
        for method in self.methods.values():
            path = self.document["servicePath"] + method["path"]
            regex = re.compile("".join(self._part(part, method) for part in re.split(r"(\{[^}]*\})", path)))
            fixed = len(re.sub(r"\{[^}]*\}", "", path))
            self._routes.setdefault(method["httpMethod"], []).append((-fixed, regex, method))
        for routes in self._routes.values():  # the more of a path is fixed, the surer it is meant
            routes.sort(key=lambda route: route[0])

    def _methods(self, node: dict) -> Iterator[dict]:
        yield from node.get("methods", {}).values()
        for child in node.get("resources", {}).values():
            yield from self._methods(child)

    def _part(self, part: str, method: dict) -> str:
        if not part.startswith("{"):
            return re.escape(part)
        name = part.strip("{+}")
        pattern = method["parameters"][name].get("pattern", ".+").strip("^$") if part.startswith("{+") else "[^/]+"
        return f"(?P<{name}>{pattern})"

    def route(self, verb: str, path: str) -> tuple[dict, dict] | None:
        """The method that a verb and a path (without the leading /) mean, and its path parameters."""
        for _, regex, method in self._routes.get(verb, []):
            if found := regex.fullmatch(path):
                return method, {name: unquote(value) for name, value in found.groupdict().items()}
        return None

    def parameters(self, method: dict, path: dict, query: str) -> dict:
        """Path and query parameters with their types; refuses unknown, missing and wrong ones."""
        described = {**UNDESCRIBED.get(self.service, {}), **self.document.get("parameters", {}), **method.get("parameters", {})}
        found: list[tuple[str, str]] = []
        given: dict[str, list[str]] = {name: [value] for name, value in path.items()}
        for name, text in parse_qsl(query, keep_blank_values=True):
            if described.get(name, {}).get("location") == "query":
                given.setdefault(name, []).append(text)
            else:
                found.append(("", f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter. '
                                  f"Field '{name}' could not be found in request message."))  # fmt: skip
        values: dict = {}
        for name, texts in given.items():
            converted = [self._text(text, described[name], snake(name), found) for text in texts]
            if described[name].get("repeated"):
                values[name] = converted
            else:
                values[name] = converted[0]
                if len(texts) > 1:
                    found.append((snake(name), f"Invalid value at '{snake(name)}': it may be given once only."))
        for name, schema in method.get("parameters", {}).items():
            if schema.get("required") and name not in given:
                found.append((snake(name), f"Required parameter: {name}"))
        if found:
            raise violations(found)
        return values

    def _text(self, text: str, schema: dict, where: str, found: list) -> object:
        """A parameter from the URL, in its type."""
        value: object = text
        if schema["type"] == "integer" and re.fullmatch(r"-?\d+", text):
            value = int(text)
        elif schema["type"] == "boolean" and text.lower() in ("true", "false"):
            value = text.lower() == "true"
        if schema["location"] == "path" and "pattern" in schema and not re.fullmatch(schema["pattern"], text):
            found.append((where, f"Invalid value for field '{where}': '{text}'. Must be a match of regex '{schema['pattern']}'"))
        self._check(value, {**schema, "pattern": ".*"}, where, "", found, answer=False)
        for bound, wrong in (("minimum", lambda limit: value < limit), ("maximum", lambda limit: value > limit)):
            if isinstance(value, int) and bound in schema and wrong(int(schema[bound])):
                found.append((where, f"Invalid value for field '{where}': '{text}'. Its {bound} is {schema[bound]}."))
        return value

    def body(self, method: dict, value: object) -> dict:
        """The body, if it is as the method's request schema says; refuses it else."""
        if not isinstance(value, dict):
            raise violations([("", "Invalid JSON payload received. Unexpected token. Root element must be a message.")])
        if "request" not in method:
            if value:
                raise violations([("", f'Invalid JSON payload received. Unknown name "{next(iter(value))}": Cannot find field.')])
            return {}
        found: list[tuple[str, str]] = []
        self._check(value, method["request"], "", method["id"], found, answer=False)
        if found:
            raise violations(found)
        return value

    def answer(self, method: dict, value: dict) -> list[str]:
        """What in a service's own answer is not as described: the rehearsal must not teach fields that Google does not send."""
        found: list[tuple[str, str]] = []
        self._check(value, method.get("response", {}), "", "", found, answer=True)
        return [text for _, text in found]

    def _check(self, value: object, schema: dict, where: str, method: str, found: list, *, answer: bool) -> None:
        if value is None and not answer:
            return  # as good as not given
        while "$ref" in schema:
            schema = self.document["schemas"][schema["$ref"]]
        kind = schema.get("type", "any")
        if kind == "object":
            self._object(value, schema, where, method, found, answer=answer)
        elif kind == "array":
            if not isinstance(value, list):
                found.append((where, f"Invalid value at '{where}' (repeated field), \"{value}\""))
                return
            for index, item in enumerate(value):
                self._check(item, schema["items"], f"{where}[{index}]", method, found, answer=answer)
        elif kind != "any" and (wrong := self._scalar(value, schema, answer=answer)):
            shown = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
            found.append((where, f"Invalid value at '{where}' ({wrong}), {shown}"))
        elif self.service == "compute" and "pattern" in schema and not answer and not re.fullmatch(schema["pattern"], str(value)):
            text = f"Invalid value for field 'resource.{where}': '{value}'. Must be a match of regex '{schema['pattern']}'"
            found.append((where, text))

    def _object(self, value: object, schema: dict, where: str, method: str, found: list, *, answer: bool) -> None:
        if not isinstance(value, dict):
            found.append((where, f"Invalid value at '{where}' (type.googleapis.com/{schema.get('id', 'object')}), \"{value}\""))
            return
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        for name, item in value.items():
            inner = properties.get(name, more)
            if inner is None:
                at = f" at '{where}'" if where else ""
                found.append((where, f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.'))
            else:
                shown = snake(name) if name in properties else name
                self._check(item, inner, f"{where}.{shown}" if where else shown, method, found, answer=answer)
        if method and not where and not method.endswith(".patch"):  # those of a patch are wrong: the rest stays as it is
            for name, inner in properties.items():
                if method in inner.get("annotations", {}).get("required", []) and value.get(name) in (None, ""):
                    found.append((snake(name), f"Required field '{snake(name)}' not specified"))

    def _scalar(self, value: object, schema: dict, *, answer: bool) -> str:
        """Type that a value should have had, "" if it has."""
        kind, form = schema["type"], schema.get("format", "")
        if form in INTEGERS:
            texts = kind == "string"  # int64 travels as text; Google reads numbers too, but sends text
            allowed = (str,) if answer and texts else (int,) if answer else (int, str)
            if isinstance(value, bool) or not isinstance(value, allowed) or not re.fullmatch(r"-?\d+", str(value)):
                return _kind(schema)
            low, high = INTEGERS[form]
            return "" if low <= int(value) <= high else _kind(schema)
        if kind in ("integer", "number"):
            right = isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
        elif kind == "boolean":
            right = isinstance(value, bool)
        else:
            right = isinstance(value, str)
            if right and "enum" in schema and value not in schema["enum"]:
                return f"type.googleapis.com/google.{self.service}.{self.version}, an enum"
            if right and form in FORMATS:
                right = bool(FORMATS[form].fullmatch(value))
            if right and form == "byte":
                try:
                    base64.b64decode(value.translate(str.maketrans("-_", "+/")), validate=True)
                except (binascii.Error, ValueError):
                    right = False
        return "" if right else _kind(schema)


@functools.cache
def served(service: str, version: str) -> Description:
    """The description of a service that the rehearsal serves."""
    return Description(service, version)


def find(service: str, verb: str, path: str) -> tuple[Description, dict, dict]:
    """Description, method and path parameters of a request; 404 if no method is meant. path: without the leading /."""
    for version in SERVED.get(service, []):
        description = served(service, version)
        if route := description.route(verb, path):
            return description, *route
    raise Refused(404, "", f"The requested URL /{path} was not found on this server: no method of {service} is {verb} /{path}.")
