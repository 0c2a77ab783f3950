"""Ask URL until it says WANTED or SECONDS have passed: client.py URL WANTED SECONDS. Reports to the pod's status."""

import sys
import time
import urllib.request

url, wanted, seconds = sys.argv[1:]
start = time.monotonic()
while True:
    asked = time.monotonic()
    try:
        said = urllib.request.urlopen(url, timeout=10).read().decode().strip()
    except OSError as error:
        said = f"{type(error).__name__}: {error}"
    if said == wanted or asked - start > float(seconds):
        break
    time.sleep(0.2)
if said == wanted:
    with open("/dev/termination-log", "w") as report:
        report.write(f"{said} ({time.monotonic() - asked:.2f} s)")
    print(said)
else:
    sys.exit(f"{url} answered {said!r} instead of {wanted!r}")
