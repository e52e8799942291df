"""Talks of several turns: the model's own answers stand before its next question, and checks say what must be kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from danlu.data.questions import Convert, Question
from danlu.data.records import RowFault
from danlu.data.sources import Row
from danlu.engines.interface import Sampling
from danlu.evaluation.metrics import Given, Metric
from danlu.evaluation.tasks.compliance import holds_word
from danlu.evaluation.tasks.interface import Asked, TaskBase
from danlu.recipe.tasks_schema import ConversationTask

CHECKS = ("contains", "contains_any", "absent", "pattern")


def read_turns(row: Any) -> list[dict[str, Any]]:
    """The turns of a talk, each `user` and perhaps `check`.

    Raises:
        RowFault: there are none, nothing is checked, or a check can't be read.
    """
    turns = row.get("turns") if isinstance(row, dict) else None
    if not isinstance(turns, list) or not turns:
        raise RowFault("missing turns: the row has no list `turns`")
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not isinstance(turn.get("user"), str) or not turn["user"].strip():
            raise RowFault(f"missing question: turn {number} has no `user`")
        _require_check(turn.get("check") or {}, number)
    if not any(turn.get("check") for turn in turns):
        raise RowFault("the reference is missing: no turn has a `check`")
    return turns


def _require_check(check: Any, number: int) -> None:
    odd = next((key for key in check if key not in CHECKS), None) if isinstance(check, dict) else "?"
    if odd is not None:
        raise RowFault(f"unknown check of turn {number}: `{odd}`, must be of {', '.join(CHECKS)}")
    for key, wanted in check.items():
        texts = [wanted] if isinstance(wanted, str) else wanted
        if not isinstance(texts, list) or not texts or not all(isinstance(one, str) and one for one in texts):
            raise RowFault(f"not text: `{key}` of turn {number}")
    try:
        re.compile(check.get("pattern", ""))
    except (re.error, TypeError) as error:
        raise RowFault(f"not a regular expression: `pattern` of turn {number}: {error}") from error


def passes(check: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer has all that it must, one of those of which it must have any, and none of the absent."""

    def there(key: str) -> list[bool]:
        wanted = check.get(key, [])
        return [holds_word(answer, word) for word in ([wanted] if isinstance(wanted, str) else wanted)]

    any_of = there("contains_any")
    return (
        all(there("contains"))
        and (any(any_of) or not any_of)
        and not any(there("absent"))
        and bool(re.search(check.get("pattern", ""), answer, re.MULTILINE))
    )


class Conversations(TaskBase):
    """See `ModelTask`."""

    own_rows, needs_reference = True, False

    def __init__(self, section: ConversationTask, max_new_tokens: int) -> None:
        super().__init__(section, Metric("checks_passed", "ratio"), Metric("conversations_passed"))
        self._sampling = Sampling(max_new_tokens)

    def convert(self) -> Convert:
        """A talk as a question: its first turn; the others are in its fields."""

        def convert(row: Row) -> Question:
            turns = read_turns(row.value)
            system = row.value.get("system")
            head = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
            asked = "\n".join(turn["user"] for turn in turns)
            return Question([*head, {"role": "user", "content": asked}], None, row.where, row.value)

        return convert

    def ask(self, engine: Any, questions: Sequence[Question], tuned: bool) -> Iterator[Asked]:
        """Checks that passed, and how many there are; and whether all did."""
        for question in questions:
            messages = [message for message in question.messages if message["role"] == "system"]
            lines, passed, finish, tokens = [], [], "stop", 0
            for turn in question.fields["turns"]:
                messages.append({"role": "user", "content": turn["user"]})
                (answer,) = engine.generate([messages], self._sampling, tuned)
                messages.append({"role": "assistant", "content": answer.text})
                mark = ""
                if turn.get("check"):
                    passed.append(passes(turn["check"], answer.text))
                    mark = " ✓" if passed[-1] else " ✗"
                lines.append(f"> {turn['user']}\n{answer.text}{mark}")
                finish, tokens = answer.finish, tokens + len(answer.ids)
            scores = (float(sum(passed)), float(len(passed)))
            given = Given("\n".join(lines), finish, tokens)
            yield Asked(given, {self.names[0]: scores, self.names[1]: (float(all(passed)),)})
