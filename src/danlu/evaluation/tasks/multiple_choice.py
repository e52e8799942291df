"""Questions with options: the likeliest one, or the letter that the answer names."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from typing import Any

from danlu.data.questions import Convert, Question
from danlu.data.records import RowFault
from danlu.data.sources import Row
from danlu.data.template import answer_text, is_plain
from danlu.engines.interface import Sampling
from danlu.evaluation.metrics import Given, Metric
from danlu.evaluation.metrics.exact_match import normal_answer
from danlu.evaluation.tasks.interface import Asked, TaskBase
from danlu.models.tokenizer import tokenize
from danlu.recipe.tasks_schema import MultipleChoiceTask

LETTERS = string.ascii_uppercase
_LETTER_TOKENS = 16


def read_choices(row: dict[str, Any]) -> tuple[str, list[str], int]:
    """Question, options and the right one's place.

    Options are `choices` or `options` (a list), or the fields A, B, C, ...; the answer is a letter, a place from 0, or
    an option's own text, in `answer` or `label`.

    Raises:
        RowFault: something of it is missing.
    """
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise RowFault("missing question: the row has no `question`")
    listed = row.get("choices", row.get("options"))
    if listed is None:
        listed = [row[letter] for letter in LETTERS if row.get(letter) not in (None, "")]
    if not isinstance(listed, list) or not 2 <= len(listed) <= len(LETTERS):
        raise RowFault("missing options: 2 to 26, as `choices`, or as the fields A, B, C, ...")
    options = [str(one) for one in listed]
    answer = row.get("answer", row.get("label"))
    if answer is None or not str(answer).strip():
        raise RowFault("the reference is missing: the row has no `answer` (a letter, a place from 0, or the option)")
    place = _place(answer, options)
    if place is None:
        raise RowFault(f"the answer is none of the options: {str(answer)[:40]}")
    return question, options, place


def _place(answer: Any, options: Sequence[str]) -> int | None:
    text = str(answer).strip()
    if text in options:
        return options.index(text)
    if len(text) == 1 and text.upper() in LETTERS[: len(options)]:
        return LETTERS.index(text.upper())
    return int(text) if text.isdigit() and int(text) < len(options) else None


def letter_in(answer: str, options: Sequence[str]) -> int | None:
    """The option that an answer names: by a letter at its beginning or after "answer" or "选"; else by its text."""
    letters = LETTERS[: len(options)]
    text = answer.strip()
    alone = rf"[(（【\[*]*([{letters}])(?=[\s*]*$|[.)）】\]*:：、,，。;；]|\n)"
    found = re.match(alone, text) or re.search(
        rf"(?i:answer|option|答案|选项?)\s*(?i:is|为|是|应为|:|：)?\s*[(（【\[*]*([{letters}])(?![A-Za-z'’])",
        text,
    )
    if found:
        return letters.index(found.group(1))
    same = [place for place, option in enumerate(options) if normal_answer(option) == normal_answer(text)]
    return same[0] if same else None


class MultipleChoice(TaskBase):
    """See `ModelTask`."""

    own_rows, needs_reference = True, False

    def __init__(self, section: MultipleChoiceTask) -> None:
        super().__init__(section, Metric("accuracy"))
        self._by_letter = section.by == "letter"

    def convert(self) -> Convert:
        """Letters are shown with the question only where they count."""
        columns = self._columns or {}

        def convert(row: Row) -> Question:
            if not isinstance(row.value, dict):
                raise RowFault(f"not an object: {type(row.value).__name__}")
            value = {**row.value, **{name: row.value.get(column) for name, column in columns.items()}}
            question, options, place = read_choices(value)
            if self._by_letter:
                lettered = "\n".join(f"{LETTERS[n]}. {option}" for n, option in enumerate(options))
                question = f"{question}\n{lettered}"
            fields = {**row.value, "_options": options, "_right": place}
            return Question([{"role": "user", "content": question}], options[place], row.where, fields)

        return convert

    def ask(self, engine: Any, questions: Sequence[Question], tuned: bool) -> Iterator[Asked]:
        """Whether the chosen option is the right one."""
        for question in questions:
            options, right = question.fields["_options"], question.fields["_right"]
            if self._by_letter:
                (answer,) = engine.generate([question.messages], Sampling(_LETTER_TOKENS), tuned)
                place, given = letter_in(answer.text, options), Given(answer.text, answer.finish, len(answer.ids))
            else:
                likely = [option_likelihood(engine, question, option, tuned) for option in options]
                place = max(range(len(options)), key=likely.__getitem__)
                given = Given(options[place])
            yield Asked(given, {self.names[0]: (float(place == right),)})


def option_likelihood(engine: Any, question: Question, option: str, tuned: bool) -> float:
    """Mean log-probability of an option's tokens as the answer, in nats, with its end left out."""
    import torch

    prompt = engine.prompt_ids(question.messages)
    ids = option_ids(engine.tokenizer, question, option)
    found = engine.logits(prompt, ids, tuned).log_softmax(-1).cpu()
    return float(found.gather(-1, torch.tensor(ids)[:, None]).mean())


def option_ids(tokenizer: Any, question: Question, option: str) -> list[int]:
    """The tokens that an option has as an answer, as the template writes it."""
    if is_plain(question.messages):
        return tokenize(tokenizer, option)
    written = answer_text(tokenizer, [*question.messages, {"role": "assistant", "content": option}], 1)
    return tokenize(tokenizer, written.text)
