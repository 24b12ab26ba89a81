"""Publishes by the CloudEvents SDK for Python over HTTPS: binary, structured, and a batch.

publish.py URL CA-FILE TOKEN-FILE; prints the id of each event that was accepted.
"""

import ssl
import sys
import urllib.request
from pathlib import Path

from cloudevents.core.bindings.http import to_binary_event, to_structured_event

from events import event

NAME = "python"


def post(headers: dict[str, str], body: bytes) -> None:
    """Any answer but 202 is an error."""
    url, ca, token = sys.argv[1:]
    # Read for each request: the kubelet replaces it.
    headers = headers | {"authorization": f"Bearer {Path(token).read_text().strip()}"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=ca), timeout=30) as response:
        if response.status != 202:
            raise SystemExit(f"the ingress says {response.status}")


binary = to_binary_event(event(NAME, "binary"))
post(binary.headers, binary.body)
structured = to_structured_event(event(NAME, "structured"))
post(structured.headers, structured.body)
# The SDK writes no batches: a batch is an array of structured events.
batch = [to_structured_event(event(NAME, f"batch-{number}")).body for number in (0, 1)]
post({"content-type": "application/cloudevents-batch+json"}, b"[" + b",".join(batch) + b"]")
for number in ("binary", "structured", "batch-0", "batch-1"):
    print(f"{NAME}-{number}")
