"""A `danlu serve` process and a client of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
from served_runs import NUM_TOKENS

SERVE = [sys.executable, "-m", "danlu", "serve", "--port", "0"]


class Served:
    """A server process and a client of it."""

    def __init__(self, *words: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [*SERVE, *words, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )
        self.said: list[str] = []
        self._listens = threading.Event()
        self._hears = threading.Thread(target=self._hear, daemon=True)
        self._hears.start()
        assert self._listens.wait(120), "".join(self.said)
        found = re.search(r"at (http://\S+)/v1", "".join(self.said))
        assert found, "".join(self.said)
        self.url = found.group(1)
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def _hear(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if "is served at" in line:
                self._listens.set()
        self._listens.set()

    def ask(self, model: str, question: str, **more: Any) -> Any:
        asked = {"max_tokens": NUM_TOKENS, "temperature": 0} | more
        return self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], **asked
        )

    def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "".join(self.said)
            time.sleep(0.05)

    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/readyz").json()
        return found

    def end(self, how: int = signal.SIGTERM) -> tuple[int, dict[str, Any]]:
        """Tells it to end; see `ended`."""
        self.process.send_signal(how)
        return self.ended()

    def ended(self) -> tuple[int, dict[str, Any]]:
        """Its exit status and its last line, once it has ended; `said` is complete then."""
        status = self.process.wait(60)
        self._hears.join(60)  # not `communicate`, which would take lines away from it
        assert self.process.stdout is not None
        return status, json.loads(self.process.stdout.read().splitlines()[-1])

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
