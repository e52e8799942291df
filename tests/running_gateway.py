"""A gateway in a thread, before whatever engine its desk has."""

from __future__ import annotations

import threading

import openai
import uvicorn

from danlu.serving.desk import Desk
from danlu.serving.gateway import make_app
from danlu.serving.serve import listening_socket


class RunningGateway:
    """One that runs in a thread; `close` ends the engine too."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        taken = listening_socket("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(make_app(desk), log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [taken]})
        self.thread.start()
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=20)

    def close(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join()
        self.desk.engine.close()  # type: ignore[attr-defined]
