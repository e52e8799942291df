"""Rows whose question and answers are neither too short nor too long."""

from __future__ import annotations

from danlu.data.cleaning.texts import ANSWER_ROLES, QUESTION_ROLES
from danlu.data.records import Record, RowFault


class Length:
    """Keeps rows within bounds, in characters of the turns' contents (white space at the ends not counted).

    Answers are all answers, a rejected one included; one that only calls tools is none. Plain text is an answer.
    """

    def __init__(
        self,
        min_question: int = 1,
        max_question: int | None = None,
        min_answer: int = 1,
        max_answer: int | None = None,
    ) -> None:
        self.name = "length"
        self._question_bounds = min_question, max_question
        self._answer_bounds = min_answer, max_answer

    def __call__(self, record: Record) -> Record:
        """The record as it is.

        Raises:
            RowFault: a text is outside the bounds.
        """
        questions = [len(_content(message)) for message in record.messages if message["role"] in QUESTION_ROLES]
        lengths = [
            len(_content(message))
            for message in [*record.messages, *record.rejected]
            if message["role"] in ANSWER_ROLES and not (message.get("tool_calls") and not _content(message))
        ]
        _check("question", questions[:1], self._question_bounds[0], None)
        _check("question", questions, 0, self._question_bounds[1])
        _check("answer", lengths, *self._answer_bounds)
        return record


def _content(message: dict[str, object]) -> str:
    content = message.get("content")
    return content.strip() if isinstance(content, str) else ""


def _check(kind: str, lengths: list[int], least: int, most: int | None) -> None:
    for length in lengths:
        if length < least:
            raise RowFault(f"{kind} too short: {length} characters, at least {least}")
        if most is not None and length > most:
            raise RowFault(f"{kind} too long: {length} characters, at most {most}")
