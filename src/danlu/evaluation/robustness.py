"""How much a model's score drops when its questions are attacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from danlu.data.augmentation.back_translation import language_of
from danlu.data.augmentation.questions import QUESTION_ROLES
from danlu.data.records import Messages
from danlu.errors import DataError, Fault
from danlu.evaluation.attacks import ATTACKS
from danlu.evaluation.attacks.interface import Attack, Language
from danlu.evaluation.statistics import mean_interval

LEAST_CHANGED = 0.9
_SHOWN_ROWS, _SHOWN_CHARACTERS = 3, 120
_LANGUAGES: dict[str, Language] = {"English": "en", "Chinese": "zh"}
_NAMES = {"en": "English", "zh": "Chinese"}

Answers = Callable[[list[Messages]], list[str]]
"""Conversations → the answers of the model that is judged."""
Score = Callable[[list[str]], list[float]]
"""An answer to each row, in the rows' order → the score of each, larger is better."""


@dataclass(frozen=True)
class Attacked:
    """Rows as one attack changed them.

    Attributes:
        name: of the attack.
        attack: it.
        rows: numbers of the rows that were changed.
        conversations: those rows, only the last question changed.
        num_possible: rows in the attack's languages.
    """

    name: str
    attack: Attack
    rows: tuple[int, ...]
    conversations: list[Messages]
    num_possible: int


def attack_rows(
    conversations: Sequence[Messages], attacks: dict[str, Attack], seed: int
) -> tuple[list[Attacked], dict[str, str]]:
    """Changes the last question of each conversation, by each attack. Nothing is asked yet.

    An attack counts the rows in its languages, told by their script; each row's change depends on the seed, the attack
    and the row's number alone.

    Args:
        conversations: each ends with its question.
        attacks: by name, as in `ATTACKS`.
        seed: of all chance.

    Returns:
        The attacks that can be made, and why others were left out, by name.

    Raises:
        DataError: an attack changes fewer than 90 % of its rows.
    """
    questions = [_question(messages) for messages in conversations]
    languages = [_LANGUAGES.get(language_of(text)) if text.strip() else None for text in questions]
    made, left_out, faults = [], {}, []
    for name, attack in attacks.items():
        rows = [row for row, language in enumerate(languages) if language in attack.languages]
        if not rows:
            left_out[name] = f"no row is in {' or '.join(_NAMES[one] for one in attack.languages)}"
            continue
        changed = {}
        try:
            for row in rows:
                text = attack.change(questions[row], languages[row], Random(f"{seed}:{name}:{row}"))  # type: ignore[arg-type]
                if text != questions[row]:
                    changed[row] = text
        except DataError as error:  # a word list is not installed
            left_out[name] = f"{error.faults[0].what}: {error.faults[0].hint}"
            continue
        if len(changed) < LEAST_CHANGED * len(rows):
            faults.append(_hardly_changes(name, questions, rows, changed))
        new = [_with_question(conversations[row], text) for row, text in changed.items()]
        made.append(Attacked(name, attack, tuple(changed), new, len(rows)))
    if faults:
        raise DataError(*faults)
    return made, left_out


def changed_inputs(attacked: Sequence[Attacked]) -> dict[str, list[dict[str, Any]]]:
    """What each attack made of each question: by name, `row` and `question`."""
    return {
        one.name: [{"row": row, "question": text} for row, text in zip(one.rows, _changed(one), strict=True)]
        for one in attacked
    }


def run_robustness(
    conversations: Sequence[Messages],
    attacked: Sequence[Attacked],
    answer: Answers,
    score: Score,
    seed: int,
    before: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Asks the attacked questions and compares each answer's score with that of the question as it was.

    Args:
        conversations: as given to `attack_rows`.
        attacked: what it made of them.
        answer: of the model that is judged.
        score: of an answer to each row; asked with the answers before where a row was not attacked.
        seed: of the intervals' resampling.
        before: answers to the questions as they were, where they are known already.

    Returns:
        `rows`, `score_before` (mean of all rows), `attacks`: by name `about`, `possible` (rows in its languages),
        `changed` (rows of them), `score_before` and `score_after` (means of the changed rows), `drop`, `drop_interval`
        (95 %, paired bootstrap), `obeyed` (share of answers that did what was planted; null where nothing was),
        `examples` (the rows that lost most: row, question, changed, answer before
        and after, their scores).
    """
    before = list(before) if before is not None else answer(list(conversations))
    scores = score(before)
    return {
        "rows": len(before),
        "score_before": _mean(scores),
        "attacks": {one.name: _judged(one, conversations, before, scores, (answer, score), seed) for one in attacked},
    }


def _changed(one: Attacked) -> list[str]:
    return [_question(messages) for messages in one.conversations]


def _judged(
    one: Attacked,
    conversations: Sequence[Messages],
    before: list[str],
    scores: list[float],
    model: tuple[Answers, Score],
    seed: int,
) -> dict[str, Any]:
    answer, score = model
    answers = dict(zip(one.rows, answer(one.conversations), strict=True))
    after = score([answers.get(row, text) for row, text in enumerate(before)])
    drops = [scores[row] - after[row] for row in one.rows]
    questions = _changed(one)
    obeyed = [one.attack.obeys(text) for text in answers.values()] if one.attack.obeys else None
    worst = sorted(range(len(one.rows)), key=lambda place: -drops[place])[:_SHOWN_ROWS]
    return {
        "about": one.attack.about,
        "possible": one.num_possible,
        "changed": len(one.rows),
        "score_before": _mean([scores[row] for row in one.rows]),
        "score_after": _mean([after[row] for row in one.rows]),
        "drop": _mean(drops),
        "drop_interval": mean_interval(drops, seed),
        "obeyed": None if obeyed is None else _mean(obeyed),
        "examples": [
            {
                "row": one.rows[place],
                "question": _question(conversations[one.rows[place]]),
                "changed": questions[place],
                "before": before[one.rows[place]],
                "after": answers[one.rows[place]],
                "score_before": scores[one.rows[place]],
                "score_after": after[one.rows[place]],
            }
            for place in worst
        ],
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _place(messages: Messages) -> int:
    """Of the last message that a user wrote; -1 if none did."""
    return max((place for place, message in enumerate(messages) if message["role"] in QUESTION_ROLES), default=-1)


def _question(messages: Messages) -> str:
    place = _place(messages)
    return str(messages[place]["content"]) if place >= 0 else ""


def _with_question(messages: Messages, text: str) -> Messages:
    place = _place(messages)
    return [*messages[:place], {**messages[place], "content": text}, *messages[place + 1 :]]


def _hardly_changes(name: str, questions: list[str], rows: list[int], changed: dict[int, str]) -> Fault:
    others = ", ".join(other for other in ATTACKS if other != name)
    same = [questions[row][:_SHOWN_CHARACTERS] for row in rows if row not in changed][:_SHOWN_ROWS]
    return Fault(
        f"the attack {name} changes {len(changed)} of {len(rows)} questions ({len(changed) / len(rows):.0%}), so it "
        f"measures little; not, for one, {'; '.join(map(repr, same))}",
        "evaluation.robustness.attacks",
        f"an attack that changes at least {LEAST_CHANGED:.0%} of the rows in its languages",
        f"leave {name} out of evaluation.robustness.attacks; the others are {others}",
    )
