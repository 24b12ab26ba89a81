"""A handler that reads what it is sent by the CloudEvents SDK for Python.

receive.py PORT; prints one line of JSON for each event, as the SDK understands it.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cloudevents.core.bindings.http import HTTPMessage, from_http_event

BATCH = "application/cloudevents-batch+json"
STRUCTURED = {"content-type": "application/cloudevents+json"}


def events(headers: dict[str, str], body: bytes):
    """The events of a request, and its mode."""
    content_type = headers.get("content-type", "")
    if content_type.startswith(BATCH):
        # The SDK reads no batches: a batch is an array of structured events.
        items = [json.dumps(item).encode() for item in json.loads(body)]
        return "batch", [from_http_event(HTTPMessage(headers=STRUCTURED, body=item)) for item in items]
    mode = "structured" if content_type.startswith(STRUCTURED["content-type"]) else "binary"
    return mode, [from_http_event(HTTPMessage(headers=headers, body=body))]


def told(mode: str, event) -> dict:
    attributes = {name: value if isinstance(value, str) else value.isoformat().replace("+00:00", "Z")
                  for name, value in event.get_attributes().items()}
    data = event.get_data()
    if isinstance(data, bytes):
        data = {"base64": base64.b64encode(data).decode()}
    return {"mode": mode, "attributes": attributes, "data": data}


def say(line: dict) -> None:
    """Whole lines, whatever other requests are answered at the time."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            mode, received = events(headers, body)
            for event in received:
                say(told(mode, event))
            self.send_response(204)
        except Exception as error:  # whatever it is, the check must see it
            say({"error": repr(error)})
            self.send_response(400)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
