"""A handler with Python's standard library: one POST for each event."""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        # Attributes in headers are percent-encoded.
        subject = unquote(self.headers.get("ce-subject", ""))
        try:
            data = json.loads(body)
        except ValueError:
            return self.answer(400)  # The event will never be right: a dead letter.
        # Do the work here. The same event (source and id) may come twice.
        print("handled", self.headers["ce-id"], subject, json.dumps(data), flush=True)
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


# The pod is drained before this signal comes, so nothing is under way.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
