"""A gateway in a thread, before an engine that answers at once, with two adapters that are not there."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import uvicorn
from instant_engine import InstantEngine

from danlu.serving.answer_cache import AnswerCache
from danlu.serving.catalogue import RunEdition, RunFolders
from danlu.serving.desk import Desk
from danlu.serving.gateway import make_app
from danlu.serving.patience import patient_protocol
from danlu.serving.routing import Route, Routes, Rule
from danlu.serving.serve import listening_socket
from danlu.serving.shelf import Shelf
from danlu.serving.surroundings import Surroundings


class NothingToLoad:
    def load(self, name: str, folder: Path, proven: bool) -> None:
        pass

    def unload(self, name: str) -> None:
        pass


class Gateway:
    """One that runs in a thread."""

    def __init__(
        self,
        tokenizer: Any,
        max_body_bytes: int = 100_000,
        cache: AnswerCache | None = None,
        around: Surroundings | None = None,
        head_seconds: float = 10.0,
    ) -> None:
        runs = {name: RunEdition(Path(name), name, f"hash-of-{name}") for name in ("law", "support")}
        catalogue = RunFolders(runs)
        self.engine = InstantEngine(tokenizer)
        self.shelf = Shelf(Fetches(catalogue), NothingToLoad(), ("base", "b" * 64))
        self.shelf.refresh()
        rule = Rule(model="law", keywords=("contract",))
        routes = Routes([Route(name="assistant", rules=(rule,), default="support")])
        self.around = around or Surroundings()
        self.desk = Desk(self.engine, self.shelf, routes, cache=cache, around=self.around)
        taken = listening_socket("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        app = make_app(self.desk, max_body_bytes)
        config = uvicorn.Config(app, http=patient_protocol(head_seconds), log_level="warning")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [taken]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.http = httpx.Client(base_url=self.url, timeout=20)
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def close(self) -> None:
        self.http.close()
        self.client.close()
        self.server.should_exit = True
        self.thread.join()
        self.around.close()

    def settled(self) -> bool:
        """Whether all requests have ended, within a while."""
        until = time.monotonic() + 10
        while self.desk.visits and time.monotonic() < until:
            time.sleep(0.01)
        return self.desk.visits == 0 and not any(book.users for book in self.shelf._books.values())


class Fetches:
    """A catalogue of folders that are not there."""

    def __init__(self, listing: RunFolders) -> None:
        self.listing = listing

    def state(self) -> RunFolders:
        return self.listing

    def fetch(self, edition: Any) -> Path:
        return Path(edition.name)
