"""`POST /v1/feedback`."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from starlette.responses import Response

from danlu.serving.access.guard import account_of
from danlu.serving.desk import Desk
from danlu.serving.protocol import FeedbackGiven, FeedbackTaken
from danlu.serving.refusals import REFUSALS, Refusal, json_response


def add_feedback(app: FastAPI, desk: Desk) -> None:
    """Takes what users say of answers."""

    @app.post("/v1/feedback", status_code=201, response_model=FeedbackTaken, responses=REFUSALS)
    async def feedback(given: FeedbackGiven, request: Request) -> Response:
        """A rating, a correction, tags or a comment on an answer of the last day, by the key that asked for it."""
        if desk.feedback is None:
            raise Refusal(404, "this gateway takes no feedback")
        account = account_of(request.scope)
        exchange = await desk.feedback.find(given.answer, account.key.id if account.key else "")
        if exchange is None:
            what = "no answer of the last day has this id, or another key asked for it"
            raise Refusal(404, what, "answer", "answer_not_found")
        if given.is_empty():
            raise Refusal(400, "one of rating, correction, comment and tags is needed")
        try:
            record = await asyncio.to_thread(desk.feedback.keep, exchange, given)
        except OSError as error:
            raise Refusal(503, f"feedback can't be kept: {error.strerror or error}") from error
        account.about |= {"answer": exchange.id, "feedback": record["id"], "model": exchange.model}
        desk.metrics.feedback.labels(exchange.model, given.rating or "none").inc()
        taken = {"id": record["id"], "object": "feedback", "answer": exchange.id}
        return json_response({**taken, "masked": sum(record["masked"].values())}, 201)
