"""A request that is passed on to a server: the model's name mapped, the answer sent on as it comes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from danlu.serving.backends.upstream import UpstreamEngine, UpstreamReply
from danlu.serving.desk import Visit
from danlu.serving.protocol import ChatQuestion, Question
from danlu.serving.refusals import Refusal, json_response
from danlu.serving.shapes import event
from danlu.serving.streams import unless_gone


async def passed(visit: Visit, engine: UpstreamEngine, request: Request, question: Question) -> Response:
    """The server's answer, whole or streamed; closes the visit at its end.

    Raises:
        Refusal: the server refuses, or does not answer.
    """
    assert visit.lease is not None
    began, path = time.perf_counter(), "chat/completions" if isinstance(question, ChatQuestion) else "completions"
    fields = question.model_dump(mode="json", exclude_unset=True)
    if question.stream:
        fields["stream_options"] = {"include_usage": True}  # tokens are counted, whoever asks
    body = engine.body(fields, visit.lease.adapter)
    headers = {"x-danlu-version": visit.lease.label}
    reply: UpstreamReply | None = None
    try:
        await visit.reserve(_most_tokens(visit, question))
        reply = await unless_gone(request.receive, engine.pass_on(path, body))
        visit.passed_on = reply is not None
        if reply is not None and question.stream:
            asked = bool(question.stream_options and question.stream_options.include_usage)
            response = _Events(_sent_on(visit, reply, began, asked), visit, reply, headers)
            visit, reply = Visit(None), None  # closed by the response
            return response
        content = await unless_gone(request.receive, reply.whole()) if reply is not None else None
        if content is None:
            return Response(status_code=499)
        _count(visit, content, time.perf_counter() - began, began)
        visit.tell("".join(map(_text, content.get("choices") or [])), content.get("id"))
        return json_response(_named(visit, content), 200, headers)
    finally:
        if reply is not None:
            await reply.close()
        visit.close()


class _Events(StreamingResponse):
    """A server's events, as they come; ends the visit and the request however it ends itself."""

    def __init__(self, events: AsyncIterator[str], visit: Visit, reply: UpstreamReply, headers: dict[str, str]) -> None:
        super().__init__(events, headers={**headers, "cache-control": "no-cache"}, media_type="text/event-stream")
        self._visit, self._reply = visit, reply

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._reply.close()
            self._visit.close()


async def _sent_on(visit: Visit, reply: UpstreamReply, began: float, with_usage: bool) -> AsyncIterator[str]:
    """The events; that with the tokens, which is always asked for, only to who asked for it."""
    first, finish, id = 0.0, "", None
    said: list[str] = []
    usage: dict[str, Any] = {}
    try:
        async for content in reply.events():
            for choice in content.get("choices") or []:
                first = first or time.perf_counter() - began
                finish = choice.get("finish_reason") or finish
                said.append(_text(choice))
            usage, id = content.get("usage") or usage, content.get("id") or id
            if content.get("choices") or with_usage:
                yield event(_named(visit, content))
    except Refusal as refusal:
        yield event(refusal.body())
        return
    _count(visit, {"choices": [{"finish_reason": finish}], "usage": usage}, first, began)
    visit.tell("".join(said), id)
    yield "data: [DONE]\n\n"


def _text(choice: dict[str, Any]) -> str:
    """What is said in a choice, whole or in part."""
    turn = choice.get("message") or choice.get("delta") or {}
    return str(turn.get("content") or choice.get("text") or "")


def _most_tokens(visit: Visit, question: Question) -> int:
    """No text has more tokens than bytes."""
    assert visit.desk is not None
    messages = visit.exchange.messages if visit.exchange is not None else []
    prompt = sum(len(str(message["content"]).encode("utf-8", "replace")) for message in messages)
    return prompt + (question.wanted_tokens or visit.desk.max_new_tokens)


def _named(visit: Visit, content: dict[str, Any]) -> dict[str, Any]:
    """With the version that answers in place of the server's own name for it."""
    assert visit.lease is not None
    return {**content, "model": visit.lease.label, "system_fingerprint": f"danlu-{visit.lease.hash[:16]}"}


def _count(visit: Visit, content: dict[str, Any], first_seconds: float, began: float) -> None:
    usage, choices = content.get("usage") or {}, content.get("choices") or [{}]
    details = usage.get("prompt_tokens_details") or {}
    counted = {
        "prompt": usage.get("prompt_tokens") or 0,
        "reused": details.get("cached_tokens") or 0,
        "answer": usage.get("completion_tokens") or 0,
    }
    visit.count(str(choices[0].get("finish_reason")), counted, first_seconds, began)
