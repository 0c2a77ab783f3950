# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How Google's services read and write values: output-only fields ignored, 64-bit numbers as text, defaults left out, hashes as etags."""

from __future__ import annotations

import base64
import copy
import functools
import hashlib
import json

from rehearsal.descriptions import SERVED, served

_LONG = ("int64", "uint64")


def digest(value: object) -> bytes:
    """A hash of any JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()


def etag(value: object) -> str:
    """An etag or a fingerprint of a JSON value: base64, as clients that decode it expect."""
    return base64.b64encode(digest(value)[:8]).decode()


def identifier(*parts: str, digits: int = 19) -> str:
    """A stable decimal id of so many digits, as Google gives each resource one."""
    return str(10 ** (digits - 1) + int.from_bytes(digest(parts)) % (9 * 10 ** (digits - 1)))


def merged(base: dict, change: dict) -> dict:
    """A copy of `base` with the fields of `change`; objects are merged, everything else is replaced."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else copy.deepcopy(value)
    return result


def read(service: str, schema: str, value: dict, present: frozenset[str] = frozenset()) -> dict:
    """A body as a service with proto3 messages reads it: without output-only fields and defaults, which it would not write back.

    `present`: fields as Schema.field whose default value is kept, because there the service tells unset from default.
    """
    return _object(service, schema, value, present)


@functools.cache
def _schemas(service: str) -> dict:
    return served(service, SERVED[service][0]).document["schemas"]


def _object(service: str, name: str, value: dict, present: frozenset[str]) -> dict:
    result = {}
    for key, described in _schemas(service)[name].get("properties", {}).items():
        if key not in value or value[key] is None or _output_only(described):
            continue
        read_value = _value(service, described, value[key], present)
        if isinstance(read_value, dict):
            keep = bool(read_value) or "$ref" in described
        else:
            default = not read_value or (isinstance(read_value, str) and (read_value == "0" or read_value.endswith("_UNSPECIFIED")))
            keep = not default or f"{name}.{key}" in present
        if keep:
            result[key] = read_value
    return result


def _output_only(described: dict) -> bool:
    return bool(described.get("readOnly")) or described.get("description", "").lower().startswith(("output only", "[output only"))


def _value(service: str, described: dict, value: object, present: frozenset[str]) -> object:
    if "$ref" in described:
        return _object(service, described["$ref"], value, present)
    kind = described.get("type")
    if kind == "array":
        return [_value(service, described["items"], item, present) for item in value]
    if kind == "object":
        each = described.get("additionalProperties", {"type": "any"})
        return {key: _value(service, each, item, present) for key, item in value.items()}
    if kind == "string" and described.get("format") in _LONG:
        return str(int(value))
    if kind == "integer":
        return int(value)
    return value
