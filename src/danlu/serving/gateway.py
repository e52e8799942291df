"""The gateway: OpenAI's API over an engine, a shelf of adapters, and rules that choose among them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response, StreamingResponse

from danlu.data.records import Message, RowFault
from danlu.engines.batching import Ask, Piece
from danlu.engines.drawing import Token
from danlu.engines.interface import Answer, Sampling
from danlu.errors import DanluError, InputError
from danlu.serving.access.guard import account_of
from danlu.serving.administration import add_administration
from danlu.serving.backends.passing import passed
from danlu.serving.backends.upstream import UpstreamEngine
from danlu.serving.desk import Desk, Visit
from danlu.serving.feedback.recent import Exchange
from danlu.serving.feedback.route import add_feedback
from danlu.serving.intake import Intake
from danlu.serving.page import add_pages
from danlu.serving.protocol import ChatQuestion, Completion, Health, Model, Models, Question, TextQuestion
from danlu.serving.refusals import BARRED, REFUSALS, Refusal, add_handlers, json_response, no_model, refusal_of
from danlu.serving.shapes import ChatShape, Shape, TextShape, event, usage_of
from danlu.serving.streams import Kept, Stream, unless_gone

_LONG_TEXT = 20_000  # characters; tokenizing more would hold up the other requests
_ANSWER: dict[int | str, Any] = {
    200: {"model": Completion, "content": {"text/event-stream": {"schema": {"type": "string"}}}},
    **REFUSALS,
}


def make_app(desk: Desk, max_body_bytes: int = 4 << 20) -> Any:
    """The ASGI application.

    Args:
        desk: what it works with.
        max_body_bytes: of a request.
    """
    app = FastAPI(title="Danlu", docs_url=None, redoc_url=None)
    add_handlers(app)
    _add_answers(app, desk)
    _add_models(app, desk)
    add_feedback(app, desk)
    _add_health(app, desk)
    add_administration(app, desk)
    add_pages(app)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return Intake(app, desk.guard, max_body_bytes, desk.metrics.requests)


def _add_answers(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/chat/completions", responses=_ANSWER, response_model=None)
    async def chat(question: ChatQuestion, request: Request) -> Response:
        messages = [turn.message() for turn in question.messages]
        return await _answer(desk, request, question, messages, ChatShape)

    @app.post("/v1/completions", responses=_ANSWER, response_model=None)
    async def complete(question: TextQuestion, request: Request) -> Response:
        return await _answer(desk, request, question, [{"role": "prompt", "content": question.prompt}], TextShape)


def _add_models(app: FastAPI, desk: Desk) -> None:
    def described(name: str, version: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": desk.began, "owned_by": "danlu", "version": version}

    def known() -> dict[str, str]:
        return {**desk.shelf.served(), **dict.fromkeys(desk.routes.names, "by rules")}

    def allowed(request: Request) -> dict[str, str]:
        key = account_of(request.scope).key
        return {name: version for name, version in known().items() if key is None or key.may_ask(name)}

    @app.get("/v1/models", response_model=Models, responses=BARRED)
    async def models(request: Request) -> Response:
        """What may stand in `model`."""
        return json_response({"object": "list", "data": [described(*pair) for pair in allowed(request).items()]})

    @app.get("/v1/models/{name:path}", response_model=Model, responses={**BARRED, 404: REFUSALS[404]})
    async def model(name: str, request: Request) -> Response:
        """One of them."""
        if name not in allowed(request):
            raise no_model(name)
        return json_response(described(name, known()[name]))


def _add_health(app: FastAPI, desk: Desk) -> None:
    @app.get("/healthz", response_model=Health)
    async def healthz() -> Response:
        """Whether the process is well."""
        return json_response({"status": "ok", "faults": []})

    @app.get("/readyz", response_model=Health, responses={503: {"model": Health}})
    async def readyz() -> Response:
        """Whether requests should be sent here; and, where no keys are asked for, which adapters are not served."""
        status, faults = desk.status, desk.shelf.faults
        if isinstance(desk.engine, UpstreamEngine) and (away := desk.engine.fault()):
            status, faults = "away", [away, *faults]
        shown = faults if desk.guard.keyring is None else []
        return json_response({"status": status, "faults": shown}, 200 if status == "ok" else 503)

    text: dict[int | str, Any] = {200: {"content": {"text/plain": {}}}}

    @app.get("/metrics", response_class=Response, responses={**text, **BARRED})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4")


async def _answer(
    desk: Desk, request: Request, question: Question, messages: list[Message], shape_of: type[Shape]
) -> Response:
    """One answer, whole or streamed, by the version that the model's name means now."""
    if desk.draining:
        raise Refusal(503, "the server is about to stop; ask another one")
    visit = Visit(desk, account_of(request.scope))
    try:
        name = desk.routes.choose(question.model, request.headers, lambda: _last_question(messages))
        visit.require_allowed(question.model, name)
        visit.lease = await _leased(desk, name)
        if isinstance(desk.engine, UpstreamEngine):
            visit.exchange = Exchange("", visit.owner, visit.lease.label, visit.lease.hash, messages)
            kept, visit = visit, Visit(None)  # closed by what follows
            return await passed(kept, desk.engine, request, question)
        assert visit.lease is not None
        ask = await _ask(desk, question, messages, visit)
        await visit.reserve(len(ask.prompt) + ask.sampling.max_new_tokens)
        shape = shape_of(visit.lease, desk.engine.tokenizer)
        visit.exchange = Exchange(shape.id, visit.owner, visit.lease.label, visit.lease.hash, messages)
        await visit.begin(ask, question.seed is not None)
        assert visit.stream is not None
        headers = {"x-danlu-version": visit.lease.label, "x-danlu-cache": "hit" if visit.was_kept else "miss"}
        asked = question.num_likeliest is not None
        if not question.stream:
            made = await unless_gone(request.receive, _whole(visit.stream))
            if made is None:
                return Response(status_code=499)
            answer, tokens = made
            visit.note(answer)
            return json_response(shape.whole(answer, tokens, asked, visit.stream.ticket), 200, headers)
        first = await unless_gone(request.receive, visit.stream.next())
        if first is None:
            return Response(status_code=499)
        with_usage = bool(question.stream_options and question.stream_options.include_usage)
        events = _events(visit, first, shape, asked, with_usage)
        kept, visit = visit, Visit(None)  # closed by the response
        return _Events(events, kept.close, headers)
    finally:
        visit.close()


class _Events(StreamingResponse):
    """A stream of events that ends its visit however it ends itself."""

    def __init__(self, events: AsyncIterator[str], close: Callable[[], None], headers: Mapping[str, str]) -> None:
        super().__init__(events, headers={**headers, "cache-control": "no-cache"}, media_type="text/event-stream")
        self._close = close

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def _events(visit: Visit, first: Piece, shape: Shape, asked: bool, with_usage: bool) -> AsyncIterator[str]:
    assert visit.stream is not None
    for content in shape.first():
        yield event(content)
    piece = first
    while True:
        if piece.text or (asked and piece.tokens):
            yield event(shape.part(piece.text, piece.tokens, asked, None))
        if piece.answer is not None:
            break
        try:
            piece = await visit.stream.next()
        except DanluError as error:
            yield event(refusal_of(error).body())
            return
    visit.note(piece.answer)
    yield event(shape.part("", (), asked, piece.answer.finish))
    if with_usage:
        yield event({**shape.envelope(shape.part_object, []), "usage": usage_of(piece.answer, visit.stream.ticket)})
    yield "data: [DONE]\n\n"


async def _whole(stream: Stream | Kept) -> tuple[Answer, list[Token]]:
    tokens: list[Token] = []
    async for piece in stream.pieces():
        tokens += piece.tokens
        if piece.answer is not None:
            return piece.answer, tokens
    raise AssertionError("the last piece has the answer")


async def _leased(desk: Desk, name: str) -> Any:
    try:
        if desk.shelf.is_loaded(name):
            return desk.shelf.take(name)
        return await asyncio.to_thread(desk.shelf.take, name)
    except InputError as error:
        if not desk.shelf.ready:
            raise Refusal(503, "the adapters are being loaded") from error
        raise no_model(name) from error
    except DanluError as error:
        raise Refusal(503, f"{name} can't be loaded: {error.faults[0].what}") from error


async def _ask(desk: Desk, question: Question, messages: Sequence[Message], visit: Visit) -> Ask:
    """The question in tokens, within the context.

    Raises:
        Refusal: the template refuses the messages, or they are too long.
    """
    param = "messages" if isinstance(question, ChatQuestion) else "prompt"
    try:
        if sum(len(message["content"]) for message in messages) > _LONG_TEXT:
            prompt = await asyncio.to_thread(desk.engine.prompt_ids, messages)
        else:
            prompt = desk.engine.prompt_ids(messages)
    except RowFault as error:
        raise Refusal(400, str(error), param) from error
    room = desk.engine.max_context - len(prompt)
    wanted = question.wanted_tokens
    if room < 1 or (wanted or 1) > room:
        answer = f" and {wanted} of the answer" if wanted else ""
        what = f"the context is {desk.engine.max_context} tokens, and {len(prompt)} of the prompt{answer} were asked"
        raise Refusal(400, f"{what} for", param, "context_length_exceeded")
    drawn = question.temperature is None or question.temperature > 0
    sampling = Sampling(
        wanted or min(room, desk.max_new_tokens),
        1.0 if question.temperature is None else question.temperature,
        1.0 if question.top_p is None else question.top_p,
        question.seed if question.seed is not None else secrets.randbits(63) if drawn else 0,
        question.top_k or 0,
    )
    assert visit.lease is not None
    return Ask(tuple(prompt), sampling, visit.lease.adapter, question.stops, question.num_likeliest)


def _last_question(messages: Sequence[Message]) -> str:
    return next((str(one["content"]) for one in reversed(messages) if one["role"] in ("user", "prompt")), "")


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, without the status that FastAPI itself would give to a wrong body."""
    if not app.openapi_schema:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema
