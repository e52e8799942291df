"""Puts the questions of all tasks to base and tuned model, noting each answer as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from danlu.data.records import RowFault
from danlu.engines.interface import Sampling
from danlu.errors import DanluError, DataError, Fault, WorkError
from danlu.evaluation.journal import Journal
from danlu.evaluation.metrics import Given
from danlu.evaluation.parts import MODELS, AskedRow, Part
from danlu.evaluation.tasks.judging import Judge
from danlu.tracking.progress import progress


def ask_all(engine: Any, parts: Sequence[Part], max_new_tokens: int, journal: Journal, quiet: bool) -> None:
    """Fills the rows of all parts with answers and scores.

    Args:
        engine: with `batch_size`, `prompt_ids`, `generate`, `logits` and `chosen`.
        parts: tasks with their rows.
        max_new_tokens: longest answer.
        journal: what is in it is not asked again.
        quiet: no progress on stderr.

    Raises:
        DataError: a row can't be asked: the chat template refuses it.
        WorkError: the judge can't be reached; what was done is in the journal.
    """
    for part in parts:
        if not part.generates:
            for model in MODELS:
                _ask_model(engine, part, model, journal, quiet)
    sampling = Sampling(max_new_tokens)
    for name, key, rows in _to_generate(parts):
        for model in MODELS:
            answer_rows(engine, (name, key), rows, sampling, model, journal, quiet)
    for part in parts:
        if isinstance(part.task, Judge):
            _judge(part, part.task, journal, quiet)
        elif part.generates:
            _score(part)


def _to_generate(parts: Sequence[Part]) -> list[tuple[str, str, list[AskedRow]]]:
    """Name and key of each set, and its rows that a task wants an answer to."""
    found: dict[str, tuple[str, str, list[AskedRow]]] = {}
    for part in parts:
        if part.generates:
            wanted = {id(row) for row in part.rows}
            _, _, before = found.get(part.of.key, ("", "", []))
            wanted |= {id(row) for row in before}
            rows = [row for row in part.of.rows if id(row) in wanted]
            found[part.of.key] = (part.of.name, part.of.key, rows)
    return list(found.values())


def answer_rows(
    engine: Any,
    of: tuple[str, str],
    rows: Sequence[AskedRow],
    sampling: Sampling,
    model: str,
    journal: Journal,
    quiet: bool,
) -> None:
    """Answers of one model, in batches of rows of similar length; a batch is noted whole, so it is the same again."""
    name, key = of
    lengths = [_prompt_length(engine, row) for row in rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    with progress(f"answers of the {model} model, {name}", len(rows), quiet) as bar:
        for start in range(0, len(order), engine.batch_size):
            chosen = [rows[place] for place in order[start : start + engine.batch_size]]
            keys = [("answer", key, row.key, model) for row in chosen]
            if any(journal.get(*one) is None for one in keys):
                found = engine.generate([row.question.messages for row in chosen], sampling, model == "tuned")
                given = [Given(answer.text, answer.finish, len(answer.ids)) for answer in found]
                journal.put({one: asdict(answer) for one, answer in zip(keys, given, strict=True)})
            for one, row in zip(keys, chosen, strict=True):
                row.answers[model] = Given(**journal.get(*one))
            bar.update(start + len(chosen))


def _prompt_length(engine: Any, row: AskedRow) -> int:
    try:
        return len(engine.prompt_ids(row.question.messages))
    except RowFault as error:
        raise DataError(Fault(str(error), row.question.where, hint="mend the row, or take it out")) from error


def _ask_model(engine: Any, part: Part, model: str, journal: Journal, quiet: bool) -> None:
    """What a task asks by itself."""
    task: Any = part.task
    name = part.section.metric_names()[0]
    keys = [("task", name, row.key, model) for row in part.rows]
    left = [place for place, one in enumerate(keys) if journal.get(*one) is None]
    with progress(f"{name} of the {model} model", len(part.rows), quiet) as bar:
        questions = [part.rows[place].question for place in left]
        try:
            for done, (place, asked) in enumerate(
                zip(left, task.ask(engine, questions, model == "tuned") if left else (), strict=True), 1
            ):
                value = {"answer": asdict(asked.answer), "scores": {one: list(s) for one, s in asked.scores.items()}}
                journal.put({keys[place]: value})
                bar.update(len(part.rows) - len(left) + done)
        except RowFault as error:
            raise DataError(Fault(str(error), part.of.name, hint="mend the row, or take it out")) from error
    for one, row in zip(keys, part.rows, strict=True):
        noted = journal.get(*one)
        if noted["answer"]["text"]:
            row.answers[model] = Given(**noted["answer"])
        for metric, statistics in noted["scores"].items():
            row.scores.setdefault(metric, {})[model] = tuple(statistics)


def _score(part: Part) -> None:
    task: Any = part.task
    for row in part.rows:
        for model in MODELS:
            for metric, statistics in task.score(row.question, row.answers[model]).items():
                row.scores.setdefault(metric, {})[model] = statistics


def _judge(part: Part, judge: Judge, journal: Journal, quiet: bool) -> None:
    """What another model says of each pair of answers."""
    (name,) = judge.names
    left = [row for row in part.rows if journal.get("task", name, row.key) is None]
    with progress("judgements", len(part.rows), quiet) as bar:
        for start in range(0, len(left), judge.parallel):
            chosen = left[start : start + judge.parallel]
            try:
                scores = judge.score_pairs(
                    [(row.question, row.answers["base"], row.answers["tuned"]) for row in chosen]
                )
            except DanluError as error:
                done = len(part.rows) - len(left) + start
                what = f"{done} of {len(part.rows)} pairs are judged, and all answers are kept"
                more = Fault(what, hint="once the judge answers, evaluate again: it goes on from there")
                raise WorkError(*error.faults, more) from error
            journal.put({("task", name, row.key): score for row, score in zip(chosen, scores, strict=True)})
            bar.update(len(part.rows) - len(left) + start + len(chosen))
    for row in part.rows:
        score = float(journal.get("task", name, row.key))
        row.scores[name] = {"base": (1.0 - score,), "tuned": (score,)}
