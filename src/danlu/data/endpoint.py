"""Answers from any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any

from danlu.errors import DataError, Fault

_PASSING_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
_MOST_BYTES = 8 * 1024 * 1024
_MOST_WAIT_SECONDS = 60.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer: followed, it would carry the key to another server."""

    def redirect_request(self, *_arguments: Any, **_named: Any) -> None:
        return None


@dataclass(frozen=True)
class EndpointAnswer:
    """Sends each prompt as one user message; a call gives the answers in the order of the prompts.

    Attributes:
        url: of the chat completions.
        model: its name at the endpoint.
        api_key: sent as a bearer token; empty for none. Never part of a message or of `repr`.
        timeout_seconds: longest silence of the server.
        num_tries: requests for one prompt, at most.
        first_wait_seconds: before the second try; doubles with each, and a server's Retry-After counts if longer.
        num_parallel: requests at one time.
        what: it is asked for, in messages.
        section: of the recipe, with its dot, that names it, in messages.
    """

    url: str
    model: str
    api_key: str = field(repr=False)
    timeout_seconds: float = 60.0
    num_tries: int = 5
    first_wait_seconds: float = 1.0
    num_parallel: int = 4
    what: str = "translation"
    section: str = "augmentation."

    def __call__(self, prompts: list[str]) -> list[str]:
        """One answer for each prompt; empty where the model gave none, or was cut off at its longest.

        Raises:
            DataError: the endpoint can't be reached, refuses, or answers with something else than a completion.
        """
        pool = ThreadPoolExecutor(self.num_parallel)
        try:
            return list(pool.map(self._answer, prompts))
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, prompt: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        wait_seconds = self.first_wait_seconds
        for number in range(1, self.num_tries + 1):
            try:
                return self._completion(self._send(json.dumps(body).encode()))
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in _PASSING_STATUS or number == self.num_tries:
                        raise self._refused(error, number) from None
                    asked_seconds = _retry_after_seconds(error)
            except (OSError, http.client.HTTPException) as error:
                if number == self.num_tries:
                    raise self._unreachable(error, number) from None
                asked_seconds = 0.0
            time.sleep(min(max(wait_seconds, asked_seconds), _MOST_WAIT_SECONDS))
            wait_seconds *= 2
        raise AssertionError("the last try returns or raises")

    def _send(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=self.timeout_seconds) as response:
            data: bytes = response.read(_MOST_BYTES + 1)
        return data

    def _refused(self, error: urllib.error.HTTPError, number: int) -> DataError:
        what = f"the {self.what} endpoint answered with status {error.code}"
        if error.code in (401, 403):
            hint = f"check the key in the environment variable that {self.section}api_key_variable names"
        elif error.code in _PASSING_STATUS:
            what += f", {number} times"
            hint = "try again later, or choose another endpoint"
        else:
            said = self._without_key(_error_text(error))
            what += f": {said}" if said else ""
            hint = f"check {self.section}endpoint and {self.section}model"
        return DataError(Fault(what, self.url, "", hint))

    def _unreachable(self, error: Exception, number: int) -> DataError:
        reason = getattr(error, "reason", None) or error
        text = self._without_key(str(reason) or type(reason).__name__)
        what = f"the {self.what} endpoint could not be reached, {number} times: {text}"
        return DataError(Fault(what, self.url, "", f"check {self.section}endpoint, and that the server runs"))

    def _completion(self, data: bytes) -> str:
        """The answer's text; empty where there is none or it was cut off."""
        try:
            if len(data) > _MOST_BYTES:
                raise ValueError("longer than 8 MiB")
            choice = json.loads(data)["choices"][0]
            text = choice["message"]["content"]
            if text is not None and not isinstance(text, str):
                raise TypeError("content is not text")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise DataError(
                Fault(
                    f"the {self.what} endpoint's answer is not a chat completion",
                    self.url,
                    "JSON with choices[0].message.content",
                    f"check that {self.section}endpoint is the base URL of an OpenAI-compatible server",
                )
            ) from error
        return "" if text is None or choice.get("finish_reason") == "length" else text

    def _without_key(self, text: str) -> str:
        return text.replace(self.api_key, "***") if self.api_key else text


def endpoint_answer(
    endpoint: str,
    model: str,
    api_key: str | None = None,
    *,
    what: str = "translation",
    section: str = "augmentation.",
    **options: Any,
) -> EndpointAnswer:
    """A callable that asks an OpenAI-compatible server; it can be pickled.

    Args:
        endpoint: base URL (`https://host`, `https://host/v1`), or the whole URL of the chat completions.
        model: its name there.
        api_key: None or empty for none.
        what: it is asked for, in messages.
        section: of the recipe, with its dot, that names it, in messages.
        options: `timeout_seconds`, `num_tries`, `first_wait_seconds`, `num_parallel` of `EndpointAnswer`.

    Raises:
        DataError: the URL isn't one of http or https, holds a user or password, or the key can't be sent.
    """
    key = (api_key or "").strip()
    if not key.isascii() or not key.isprintable():
        what_is = "the endpoint's key holds a character that can't be sent"
        raise DataError(Fault(what_is, f"{section}api_key_variable", "ASCII without blanks"))
    url = _completions_url(endpoint, what, section)
    return EndpointAnswer(url, model, key, what=what, section=section, **options)


def _completions_url(endpoint: str, what: str, section: str) -> str:
    try:
        parts = urllib.parse.urlsplit(endpoint.strip())
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_web = False
    if not is_web or parts.username or parts.password or not endpoint.strip().isascii() or " " in endpoint.strip():
        raise DataError(
            Fault(
                f"the {what} endpoint is not a base URL",
                f"{section}endpoint",
                "http:// or https:// and a host, without user and password",
                "as in https://api.example.com/v1; a key goes into an environment variable",
            )
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = (path or "/v1") + "/chat/completions"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _retry_after_seconds(error: urllib.error.HTTPError) -> float:
    value = error.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _error_text(error: IO[bytes]) -> str:
    """What the server says, in one short line."""
    try:
        return " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
    except (OSError, http.client.HTTPException):
        return ""
