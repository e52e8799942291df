"""A small server that speaks OpenAI's API, for tests: it answers as it is told to, and remembers what was asked."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from json_handler import JsonHandler

PIECES = ["I", " am", " here", "."]


class UpstreamServer:
    """One at a free port.

    Attributes:
        models: that it lists.
        asked: path and body of every question.
        key: that it wants; None: none.
        status: of its answers, with `said` in their bodies.
        gate: streams wait at it after their first piece.
        breaks: it breaks off after the first piece.
        left: clients that left amid a stream.
        answers: the whole answer, by the last user's message; else the pieces.
    """

    def __init__(self, models: list[str], port: int = 0) -> None:
        self.models, self.asked = models, []  # type: ignore[var-annotated]
        self.key: str | None = None
        self.status, self.said = 200, ""
        self.gate = threading.Event()
        self.gate.set()
        self.breaks, self.left = False, 0
        self.answers: dict[str, dict[str, Any]] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(self) -> type[JsonHandler]:
        outer = self

        class Handler(JsonHandler, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self._refused():
                    return
                self.send({"object": "list", "data": [{"id": name, "object": "model"} for name in outer.models]})

            def do_POST(self) -> None:
                body = self.read()
                outer.asked.append((self.path, body))
                if self._refused():
                    return
                if body["model"] not in outer.models:
                    self.send({"error": {"message": f"no model {body['model']}"}}, 404)
                elif body.get("stream"):
                    self._stream(body)
                else:
                    self.send(outer.answer(body))

            def _refused(self) -> bool:
                if outer.key and self.headers["authorization"] != f"Bearer {outer.key}":
                    self.send({"error": {"message": "wrong key"}}, 401)
                elif outer.status != 200:
                    self.send({"error": {"message": outer.said}}, outer.status)
                else:
                    return False
                return True

            def _stream(self, body: dict[str, Any]) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("connection", "close")
                self.end_headers()
                self.close_connection = True
                try:
                    for number, piece in enumerate(PIECES):
                        last = number == len(PIECES) - 1
                        choice = {"index": 0, "delta": {"content": piece}, "finish_reason": "stop" if last else None}
                        self._event({"id": "x", "model": body["model"], "choices": [choice]})
                        outer.gate.wait(30)
                        if outer.breaks:
                            return
                    if (body.get("stream_options") or {}).get("include_usage"):
                        self._event({"id": "x", "model": body["model"], "choices": [], "usage": USAGE})
                    self.wfile.write(b"data: [DONE]\n\n")
                except OSError:
                    outer.left += 1

            def _event(self, content: Any) -> None:
                self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
                self.wfile.flush()

        return Handler

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """A whole answer."""
        messages = body.get("messages")
        said = messages[-1]["content"] if messages else body["prompt"]
        told = self.answers.get(f"{body['model']} {said}", {"text": "".join(PIECES), "finish_reason": "stop"})
        place = {"message": {"role": "assistant", "content": told["text"]}} if messages else {"text": told["text"]}
        choice = {"index": 0, **place, "finish_reason": told["finish_reason"], "logprobs": told.get("logprobs")}
        return {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice],
                "usage": USAGE}  # fmt: skip


USAGE = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
