"""What the small HTTP servers of the tests have in common: JSON in, JSON out, nothing printed."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any


class JsonHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def read(self) -> dict[str, Any]:
        """The body of a request."""
        return dict(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def send(self, content: Any, status: int = 200) -> None:
        """An answer."""
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
