"""A fuzzer that asks every route of a gateway with bodies that reach new code; ends with a status at a 500 or a leak.

python tests/fuzz_gateway.py -runs=N -max_len=4096 [-rss_limit_mb=...]
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["danlu.serving"]):
    from danlu.serving.access import guard, journal, keys
    from danlu.serving.access.rights import RIGHTS
    from danlu.serving.catalogue import RunEdition, RunFolders
    from danlu.serving.desk import Desk
    from danlu.serving.feedback import desk as feedback_desk
    from danlu.serving.feedback.stores import JsonLines
    from danlu.serving.gateway import make_app
    from danlu.serving.routing import Route, Routes, Rule
    from danlu.serving.shelf import Shelf
    from danlu.serving.surroundings import Surroundings

from instant_engine import InstantEngine
from small_gateway import Fetches, NothingToLoad

SEEDS = [
    {"model": "law", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "logprobs": True},
    {"model": "assistant", "messages": [{"role": "system", "content": [{"type": "text", "text": "x"}]}], "stop": ["."]},
    {"model": "base", "prompt": "Once", "max_tokens": 5, "seed": 1.0, "stream_options": {"include_usage": True}},
    {"answer": "chatcmpl-1", "rating": "up", "correction": "x", "tags": ["a"], "comment": "y"},
    {"reference": "law@1", "alias": "production"},
    {"name": "law", "alias": "production"},
    {"name": "x", "roles": ["use"], "models": ["law"], "requests_per_minute": 5, "expires": "2026-12-31"},
]


class Words:
    """A tokenizer of bytes, for an engine that answers at once."""

    chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode("utf-8", "surrogatepass"))[:64] or [0]}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


class Engine(InstantEngine):
    """Answers without a template."""

    def prompt_ids(self, messages: Any) -> list[int]:
        return list(self.tokenizer(" ".join(str(message["content"]) for message in messages))["input_ids"])

    def submit(self, ask: Any, listener: Any) -> Any:
        self.asked.clear()
        self.tickets.clear()
        return super().submit(ask, listener)


class Target:
    """The application, asked without a socket."""

    def __init__(self, folder: Path) -> None:
        os.environ["DANLU_AUDIT"] = str(folder / "audit.jsonl")
        self.secret, _ = keys.make_key(folder / "keys.json", "fuzzer", ["admin"])
        runs = {name: RunEdition(Path(name), name, f"hash-of-{name}") for name in ("law", "support")}
        shelf = Shelf(Fetches(RunFolders(runs)), NothingToLoad(), ("base", "b" * 64))
        shelf.refresh()
        routes = Routes([Route(name="assistant", rules=(Rule(model="law", keywords=("x",)),), default="support")])
        around = Surroundings(
            guard.Guard(keys.Keyring(folder / "keys.json"), journal=journal.Journal("one", write=lambda _: None)),
            feedback_desk.FeedbackDesk(JsonLines(folder / "feedback.jsonl")),
        )
        if "DANLU_FUZZ_PLANTED" in os.environ:
            shelf.served = lambda: {}["planted"]  # type: ignore[method-assign]
        self.app = make_app(Desk(Engine(Words()), shelf, routes, around=around))
        self.loop = asyncio.new_event_loop()

    def ask(self, method: str, path: str, body: bytes) -> int:
        return self.loop.run_until_complete(asyncio.wait_for(self._ask(method, path, body), 30))

    async def _ask(self, method: str, path: str, body: bytes) -> int:
        given = iter([{"type": "http.request", "body": body, "more_body": False}])
        status = 0
        left = asyncio.Event()

        async def receive() -> Any:
            found = next(given, None)
            if found is None:
                await left.wait()
                return {"type": "http.disconnect"}
            return found

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        headers = [(b"authorization", f"Bearer {self.secret}".encode()), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "surrogateescape"),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        await self.app(scope, receive, send)
        return status


def main() -> None:
    """Runs until the fuzzer has had enough."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, corpus = Path(scratch), Path(scratch) / "corpus"
        corpus.mkdir()
        target = Target(folder)
        places = [right for right in RIGHTS if "path:path" not in right.path or right.path.startswith("/v1")]
        for place in range(len(places)):
            for number, seed in enumerate(SEEDS):
                (corpus / f"{place}-{number}").write_bytes(bytes([place]) + json.dumps(seed).encode())

        def one(data: bytes) -> None:
            right = places[data[0] % len(places)] if data else places[0]
            path = right.path.replace("{name:path}", "law").replace("{id}", "0123456789")
            status = target.ask(right.method, path, data[1:])
            if not 200 <= status < 500:
                raise AssertionError(f"{right.method} {path} gave {status} for {data[1:]!r}")

        atheris.Setup([sys.argv[0], *sys.argv[1:], str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
