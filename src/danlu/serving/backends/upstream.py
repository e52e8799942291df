"""A server that speaks OpenAI's API: requests are passed on to it, under the names that it has for the models.

See https://platform.openai.com/docs/api-reference; TensorRT-LLM's `trtllm-serve`, SGLang, vLLM and llama-server speak
it.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx

from danlu.data.records import Message
from danlu.engines.batching import Ask, Piece, Ticket
from danlu.errors import Fault, InputError, WorkError
from danlu.serving.refusals import Refusal

_LOOK_SECONDS = 2.0
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 600.0  # of reading: until a whole answer that is not streamed
_LONGEST_EVENT = 8 << 20  # bytes
_AWAY = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
_HERE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Upstream:
    """Where the server is.

    Attributes:
        url: with its version, as in `http://127.0.0.1:8001/v1`.
        key: that it is asked with; None: none.
        key_from: the environment variable that it came from, for messages.
    """

    url: str
    key: str | None = None
    key_from: str = "DANLU_UPSTREAM_KEY"

    @property
    def headers(self) -> dict[str, str]:
        """With the key."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def by_proxy(self) -> bool:
        """Whether the user's proxy is for it; one on this machine is asked straight."""
        return urlsplit(self.url).hostname not in _HERE

    def client(self, timeout_seconds: float) -> httpx.Client:
        """For what need not be quick."""
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=timeout_seconds, trust_env=self.by_proxy)

    def session(self) -> aiohttp.ClientSession:
        """For requests that are passed on: a tenth of what httpx takes for one. In the loop that uses it."""
        return aiohttp.ClientSession(
            headers=self.headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS),
            trust_env=self.by_proxy,
            connector=aiohttp.TCPConnector(limit=0),
            read_bufsize=_LONGEST_EVENT,
        )


def upstream_at(url: str, key: str | None) -> Upstream:
    """The server at an address as its users write it.

    Raises:
        InputError: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(Fault(f"{url} is no address of a server", "--upstream", "http://HOST:PORT or https://…/v1"))
    whole = url.rstrip("/")
    return Upstream(whole if re.search(r"/v\d+$", whole) else f"{whole}/v1", key or None)


class UpstreamEngine:
    """A server as an engine of the gateway's, which takes requests and no tokens.

    Args:
        upstream: the server.
        name: of the base there.

    Attributes:
        names: what the server calls an adapter, by its name in the gateway.
    """

    tokenizer: Any = None
    max_context = 0

    def __init__(self, upstream: Upstream, name: str) -> None:
        self.upstream = upstream
        self.names: dict[str | None, str] = {None: name}
        self.running = self.waiting = 0
        self._asked = self._failed = 0
        self._session: aiohttp.ClientSession | None = None
        self._fault: str | None = None
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._look, name="danlu-upstream", daemon=True)
        self._watch.start()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The server makes prompts itself."""
        raise WorkError(Fault("prompts are made by the upstream"))

    def submit(self, ask: Ask, listener: Callable[[Piece], None]) -> Ticket:
        """The server takes no tokens."""
        raise WorkError(Fault("questions are passed on to the upstream"))

    def figures(self) -> dict[str, int]:
        """Requests, and those that failed at the server."""
        return {"asked": self._asked, "failed": self._failed}

    def fault(self) -> str | None:
        """Why it can't answer at present, as it was seen last."""
        return self._fault

    def their_name(self, adapter: str | None) -> str:
        """What the server calls an adapter; None is the base."""
        return self.names[adapter]

    def body(self, body: dict[str, Any], adapter: str | None) -> dict[str, Any]:
        """A request as the server takes it."""
        return {**body, "model": self.their_name(adapter)}

    async def pass_on(self, path: str, body: dict[str, Any]) -> UpstreamReply:
        """Sends a request, as in `chat/completions`; the reply is to be closed.

        Raises:
            Refusal: the server refuses it, or does not answer.
        """
        self._asked += 1
        self.running += 1
        session = self._session = self._session or self.upstream.session()
        try:
            response = await session.post(f"{self.upstream.url}/{path}", json=body, allow_redirects=False)
            if response.status != 200:
                raise self._refusal(response.status, await response.read())
        except BaseException as error:
            self.running -= 1
            self._failed += isinstance(error, (*_AWAY, Refusal))
            if isinstance(error, _AWAY):
                raise away(self.upstream.url, error) from error
            raise
        return UpstreamReply(self, response)

    def close(self) -> None:
        """Looks at the server no longer. The loop that asked it has ended."""
        self._stop.set()
        self._watch.join(5)
        if self._session is not None:
            asyncio.run(self._session.close())

    def ended(self, failed: bool) -> None:
        """A reply came to its end."""
        self.running -= 1
        self._failed += failed

    def _refusal(self, status: int, content: bytes) -> Refusal:
        """What a client is told of a server's refusal: its own fault as it was said, others as the server's."""
        said = message_of(content)
        if status in (400, 413, 422, 429):
            return Refusal(400 if status == 422 else status, said)
        if status in (401, 403):
            return Refusal(502, f"the upstream refuses the gateway's key (from {self.upstream.key_from})")
        return Refusal(503 if status == 503 else 502, f"the upstream answered {status}: {said}")

    def _look(self) -> None:
        """Sees now and then whether the server is there."""
        with self.upstream.client(5.0) as client:
            while not self._stop.wait(_LOOK_SECONDS):
                try:
                    status = client.get("models").status_code
                    self._fault = None if status == 200 else f"the upstream answers {status} when asked for its models"
                except httpx.HTTPError as error:
                    self._fault = away(self.upstream.url, error).message


class UpstreamReply:
    """What a server answers: whole, or in events.

    Args:
        engine: that is told of the end.
        response: whose body was not read yet.
    """

    def __init__(self, engine: UpstreamEngine, response: aiohttp.ClientResponse) -> None:
        self._engine, self._response = engine, response
        self._failed = self._closed = False

    async def whole(self) -> dict[str, Any]:
        """The JSON of an answer."""
        try:
            content = json.loads(await self._response.read())
            if isinstance(content, dict):
                return content
        except _AWAY as error:
            self._failed = True
            raise away(self._engine.upstream.url, error) from error
        except ValueError:
            pass
        self._failed = True
        raise Refusal(502, "the upstream's answer is no JSON object")

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The events as they come."""
        try:
            async for line in self._response.content:
                if line.startswith(b"data: [DONE]"):
                    return
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])
        except _AWAY as error:
            self._failed = True
            raise away(self._engine.upstream.url, error) from error
        except ValueError as error:
            self._failed = True
            raise Refusal(502, "an event of the upstream's is no JSON") from error
        self._failed = True
        raise Refusal(502, "the upstream broke off its answer")

    async def close(self) -> None:
        """Ends the request; the server sees that nobody reads any more."""
        if not self._closed:
            self._closed = True
            self._engine.ended(self._failed)
            self._response.release() if self._response.content.at_eof() else self._response.close()


def away(url: str, error: Exception) -> Refusal:
    """What a client is told of a server that does not answer, or no longer."""
    what = str(error) or type(error).__name__
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, aiohttp.ClientConnectorError)):
        return Refusal(503, f"the upstream at {url} can't be reached: {what}")
    if isinstance(error, (httpx.TimeoutException, asyncio.TimeoutError)):
        return Refusal(504, f"the upstream at {url} took too long")
    return Refusal(502, f"the upstream at {url} broke off: {what}")


def message_of(content: bytes) -> str:
    """What a server says in an error's body, in any of the usual shapes."""
    try:
        said = json.loads(content)
        error = said.get("error", said)
        found = error if isinstance(error, str) else error.get("message") or error.get("detail") or said
        return str(found)[:1000]
    except (ValueError, AttributeError):
        return content[:300].decode(errors="replace") or "nothing"


def models_of(upstream: Upstream) -> list[str]:
    """The names of the models that a server has.

    Raises:
        InputError: it can't be reached, refuses the key, or speaks another API.
    """
    hint = "start it first, and see that `curl URL/v1/models` answers"
    try:
        with upstream.client(10.0) as client:
            response = client.get("models")
        if response.status_code in (401, 403):
            hint = f"set {upstream.key_from}"
        response.raise_for_status()
        return [str(model["id"]) for model in response.json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        what = f"the upstream does not say which models it has: {error or type(error).__name__}"
        raise InputError(Fault(what, upstream.url, "a server with OpenAI's API", hint)) from error


def post(upstream: Upstream, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Asks a server, and waits.

    Raises:
        WorkError: it refuses, or does not answer.
    """
    try:
        with upstream.client(_READ_SECONDS) as client:
            response = client.post(path, json=dict(body))
        if response.status_code == 200:
            found: dict[str, Any] = json.loads(response.content) if response.content.startswith(b"{") else {}
            return found
        what = f"answered {response.status_code}: {message_of(response.content)}"
    except (httpx.HTTPError, ValueError) as error:
        what = f"does not answer: {error or type(error).__name__}"
    raise WorkError(Fault(f"the upstream {what}", upstream.url))
