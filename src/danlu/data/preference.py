"""Preference pairs, as LLaMA-Factory, TRL and others write them: one question and two answers to it.

LLaMA-Factory has `conversations` or Alpaca fields beside `chosen` and `rejected`; TRL has a `prompt` beside them, or
two whole conversations, whose common beginning is the question.
"""

from __future__ import annotations

from typing import Any

from danlu.data.fields import alpaca_questions, filled_text, questions_of, read_answers, system_turn
from danlu.data.turns import Messages, RowFault, read_text, read_turns


def read_pair(row: dict[str, Any]) -> tuple[Messages, Messages, Messages]:
    """The questions, the wanted answer and the one that is not wanted; each answer is one message.

    Raises:
        RowFault: there is no such pair in the row.
    """
    chosen, rejected = read_answers(row["chosen"], "chosen"), read_answers(row["rejected"], "rejected")
    if not chosen or not rejected:
        raise RowFault("missing answer")
    questions = _preference_questions(row)
    if chosen[0]["role"] != "assistant":
        chosen, rejected, questions = _common_beginning(chosen, rejected, questions, row)
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if len(answer) != 1 or answer[0]["role"] != "assistant":
            raise RowFault(f"not one answer: `{name}`")
        if not answer[0]["content"].strip() and not answer[0].get("tool_calls"):
            raise RowFault("missing answer")
    if chosen == rejected:
        raise RowFault("chosen and rejected are equal")
    if questions and questions[0]["role"] == "prompt":
        chosen, rejected = ([{**answer[0], "role": "completion"}] for answer in (chosen, rejected))
    return questions, chosen, rejected


def _preference_questions(row: dict[str, Any]) -> Messages:
    """What chosen and rejected both answer; empty if they are whole conversations."""
    for key in ("conversations", "messages"):
        if key in row:
            return [*system_turn(row), *read_turns(row[key], key)]
    for key in ("instruction", "question"):
        if key in row:
            return alpaca_questions(row) if key == "instruction" else questions_of(row, read_text(row[key], key))
    if isinstance(row.get("prompt"), list):
        return [*system_turn(row), *read_turns(row["prompt"], "prompt")]
    if isinstance(row.get("prompt"), str) and not isinstance(row["chosen"], list):
        # Text that is continued has no turns: with a system text or a turn as the answer, the prompt is a question.
        if isinstance(row["chosen"], dict) or system_turn(row):
            return questions_of(row, filled_text(row, "prompt", "missing question"))
        return [{"role": "prompt", "content": filled_text(row, "prompt", "missing question")}]
    if isinstance(row.get("prompt"), str):
        return questions_of(row, filled_text(row, "prompt", "missing question"))
    return []


def _common_beginning(
    chosen: Messages, rejected: Messages, questions: Messages, row: dict[str, Any]
) -> tuple[Messages, Messages, Messages]:
    """Two whole conversations, split into what differs at their ends and what they share."""
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    shared = chosen[:same]
    if len(chosen) != same + 1 or len(rejected) != same + 1:
        raise RowFault("chosen and rejected differ before their last answer")
    asked = [message["content"] for message in shared if message["role"] == "user"]
    if any(message["role"] == "user" and message["content"] not in asked for message in questions):
        raise RowFault("the prompt is not in chosen and rejected")
    has_system = bool(shared) and shared[0]["role"] == "system"
    return chosen[same:], rejected[same:], shared if has_system else [*system_turn(row), *shared]
