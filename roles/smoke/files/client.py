"""Ask URL until it says WANTED or SECONDS have passed: client.py URL WANTED SECONDS [JSON TO POST]. Reports to the pod's status."""

import json
import sys
import time
import urllib.request

url, wanted, seconds, body = [*sys.argv[1:], ""][:4]
request = urllib.request.Request(url, body.encode() or None, {"Content-Type": "application/json"} if body else {})


def value(text):
    """JSON as what it stands for, which may be spelled in different ways."""
    return json.loads(text) if body else text


start = time.monotonic()
while True:
    asked = time.monotonic()
    try:
        said = urllib.request.urlopen(request, timeout=60).read().decode().strip()
        right = value(said) == value(wanted)
    except (OSError, ValueError) as error:
        said, right = f"{type(error).__name__}: {error}", False
    if right or asked - start > float(seconds):
        break
    time.sleep(0.2)
if right:
    with open("/dev/termination-log", "w") as report:
        report.write(f"{said} ({time.monotonic() - asked:.2f} s)")
    print(said)
else:
    sys.exit(f"{url} answered {said!r} instead of {wanted!r}")
