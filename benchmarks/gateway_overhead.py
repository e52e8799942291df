"""The gateway itself: milliseconds that it adds to a request, before an engine or an upstream that answers at once.

    python benchmarks/gateway_overhead.py --requests 1000 --out results/NAME.json

Gateway, upstream and client are a process each. `engine` is an engine in the gateway's process, `upstream` a server
that it passes requests on to; `direct` is that server without a gateway, to be taken off from `upstream`.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from machine import describe_run, write_result

WORDS = "river stone cloud lamp tiger paper green silver ocean maple candle bank " * 10
BODY = {"model": "base", "temperature": 0, "messages": [{"role": "user", "content": WORDS}]}
ANSWER = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "base",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "I am here."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 130, "completion_tokens": 4, "total_tokens": 134},
}  # fmt: skip
MODELS = {"object": "list", "data": [{"id": "base", "object": "model"}]}


def _response(content: Any) -> bytes:
    text = json.dumps(content).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text)


async def serve_upstream() -> None:
    """A server that does nothing but answer."""
    answer, models = _response(ANSWER), _response(MODELS)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                found = re.search(rb"content-length: (\d+)", head.lower())
                if found:
                    await reader.readexactly(int(found.group(1)))
                writer.write(answer if head.startswith(b"POST") else models)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def serve_gateway(upstream: str | None) -> None:
    """The gateway before an engine that answers at once, or before an upstream."""
    import uvicorn

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from instant_engine import InstantEngine

    class AtOnce(InstantEngine):
        """Answers in one thread that is there already."""

        def __init__(self, *what: Any) -> None:
            super().__init__(*what)
            self._thread = ThreadPoolExecutor(1)

        def submit(self, ask: Any, listener: Any) -> Any:
            self._thread.submit(self._answer, ask, listener)
            return Ticket(ask)

    from danlu.engines.batching import Ticket
    from danlu.models.embedded import embedded_model_folder
    from danlu.models.tokenizer import load_tokenizer
    from danlu.serving.backends.table import Choice, open_their_engine
    from danlu.serving.catalogue import RunFolders
    from danlu.serving.desk import Desk
    from danlu.serving.gateway import make_app
    from danlu.serving.routing import Routes
    from danlu.serving.serve import Keeping, listening_socket, make_desk
    from danlu.serving.shelf import Shelf

    if upstream:
        opened, catalogue = open_their_engine(Choice("upstream", upstream=upstream), None, None)
        desk = make_desk(opened, catalogue, Routes(), Keeping())
    else:
        shelf = Shelf(RunFolders({}), None, ("base", "0" * 64))  # type: ignore[arg-type]
        shelf.refresh()
        engine = AtOnce(load_tokenizer(embedded_model_folder("smollm2-135m-instruct")), 4096)
        desk = Desk(engine, shelf, Routes())
    taken = listening_socket("127.0.0.1", 0)
    print(taken.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(make_app(desk), log_level="warning", access_log=False, http="h11")).run(
        sockets=[taken]
    )


def started(*words: str) -> tuple[subprocess.Popen[str], int]:
    """One of the two as a process, and its port."""
    process = subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def measured(process: subprocess.Popen[str], port: int, requests: int) -> dict[str, float]:
    """Milliseconds of requests that follow each other over one connection, and of the processor for each of them."""
    about = psutil.Process(process.pid)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body, headers, seconds = json.dumps(BODY), {"content-type": "application/json"}, []
    for number in range(requests + requests // 5):
        if number == requests // 5:
            spent = sum(about.cpu_times()[:2])
        began = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        content = response.read()
        seconds.append(time.perf_counter() - began)
        assert response.status == 200, content
    spent = sum(about.cpu_times()[:2]) - spent
    ordered = sorted(seconds[requests // 5 :])
    return {
        "processor_ms": round(spent / requests * 1000, 2),
        "p50_ms": round(statistics.median(ordered) * 1000, 2),
        "p95_ms": round(ordered[int(0.95 * len(ordered))] * 1000, 2),
    }


def main() -> None:
    """Measures the three, in turns, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    parser.add_argument("--serve", choices=["gateway", "upstream"], help=argparse.SUPPRESS)
    parser.add_argument("--upstream", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve == "upstream":
        return asyncio.run(serve_upstream())
    if chosen.serve == "gateway":
        return serve_gateway(chosen.upstream)
    found: dict[str, Any] = describe_run(1)
    upstream, port = started("--serve", "upstream")
    gateways = {"direct": (upstream, port), "engine": started("--serve", "gateway")}
    gateways["upstream"] = started("--serve", "gateway", "--upstream", f"http://127.0.0.1:{port}")
    for name, place in gateways.items():
        measured(*place, 50)
        rounds = [measured(*place, chosen.requests // chosen.rounds) for _ in range(chosen.rounds)]
        found[name] = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    for process, _ in gateways.values():
        process.terminate()
        process.wait()
    if chosen.out:
        write_result(Path(chosen.out), found)
    return None


if __name__ == "__main__":
    main()
