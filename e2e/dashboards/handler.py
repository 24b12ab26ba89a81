"""Answers an event by its type: order.busy with 503, order.wrong with 400, all else with 204."""

import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWERS = {"order.busy": 503, "order.wrong": 400}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(ANSWERS.get(self.headers["ce-type"], 204))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
