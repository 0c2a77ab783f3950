#!/usr/bin/env python3
# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Record the sha256 of artifacts whose sum a release set does not know yet (null).

    .venv/bin/python releases/record.py [--release NAME] [--from URLPREFIX=DIR …]

Every artifact without a sum is downloaded, or read from DIR where its URL begins with URLPREFIX (a checkout of the upstream repository at
that tag). A sum that is recorded already is never replaced: with --check it is compared, and a difference is an error.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import urllib.request

import yaml

DIRECTORY = os.path.dirname(os.path.abspath(__file__))


class RecordError(Exception):
    """A sum that cannot be recorded, or is not the one that is."""


def sums(node: yaml.Node, url: str | None = None) -> list[tuple[str, yaml.ScalarNode]]:
    """The URL of every file, and the place in the text where its sum stands."""
    found: list[tuple[str, yaml.ScalarNode]] = []
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            found += sums(item)
    if not isinstance(node, yaml.MappingNode):
        return found
    entries = {key.value: value for key, value in node.value}
    url = entries["url"].value if "url" in entries else None
    for key, value in entries.items():
        if url and key == "sha256":
            found.append((url, value))
        elif url and key == "files":
            found += [(f"{url}/{path.value}", place) for path, place in value.value]
        else:
            found += sums(value)
    return found


def read(url: str, local: dict[str, str], timeout: float = 30) -> bytes:
    """The bytes of an upstream file."""
    for prefix, directory in local.items():
        if url.startswith(prefix):
            path = os.path.join(directory, url[len(prefix) :].lstrip("/"))
            try:
                with open(path, "rb") as stream:
                    return stream.read()
            except OSError as error:
                raise RecordError(f"{url}: {path} cannot be read: {error.strerror}") from None
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.read()
    except (OSError, ValueError) as error:
        raise RecordError(f"{url} cannot be fetched: {error}. Behind a proxy set https_proxy, or use --from URLPREFIX=DIR.") from None


def record(path: str, local: dict[str, str], check: bool = False) -> list[str]:
    """Fill in what is null; returns a line for each sum that was recorded. Comments and order stay as they are."""
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    lines, done, problems = text.splitlines(keepends=True), [], []
    for url, place in sums(yaml.compose(text, Loader=yaml.SafeLoader)):
        known = place.tag != "tag:yaml.org,2002:null"
        if known and not check:
            continue
        try:
            got = hashlib.sha256(read(url, local)).hexdigest()
        except RecordError as error:
            problems.append(str(error))
            continue
        if known:
            if place.value != got:
                problems.append(f"{url}: recorded is {place.value}, but it has {got}. Find out why before you change the release set.")
            continue
        mark, end = place.start_mark, place.end_mark
        line = lines[mark.line]
        after = re.sub(r"\A\s*#\s*not yet verified[^\n]*", "", line[end.column :])
        space = " " if line[: mark.column].endswith(":") else ""  # an empty value is null, too
        lines[mark.line] = f"{line[: mark.column]}{space}{got}{after}"
        done.append(f"{url}: {got}")
    if done:
        temporary = f"{path}.new"
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write("".join(lines))
        os.replace(temporary, path)
    if problems:
        raise RecordError("\n".join([*done, *problems]))
    return done


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", help="name of a release set, or path of its file (default: all)")
    parser.add_argument("--from", dest="local", action="append", default=[], metavar="URLPREFIX=DIR", help="read these URLs from files")
    parser.add_argument("--check", action="store_true", help="compare the sums that are recorded, too")
    options = parser.parse_args(arguments)
    local = {}
    for item in options.local:
        prefix, equals, directory = item.rpartition("=")
        if not equals:
            parser.error(f"--from {item}: write URLPREFIX=DIR")
        local[prefix] = directory
    names = [options.release] if options.release else sorted(name for name in os.listdir(DIRECTORY) if name.endswith(".yml"))
    failed = False
    for name in names:
        path = name if os.path.isfile(name) else os.path.join(DIRECTORY, name if name.endswith(".yml") else f"{name}.yml")
        try:
            done = record(path, local, options.check)
            print("\n".join([f"{path}: {len(done)} recorded", *(f"  {line}" for line in done)]))
        except (OSError, RecordError, yaml.YAMLError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
