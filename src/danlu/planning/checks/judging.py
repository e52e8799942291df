"""Whether the evaluation can say what it is meant to say: held against the reference answers themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator

from danlu.planning.findings import Finding
from danlu.planning.look import Look
from danlu.recipe.evaluation_schema import ComplianceTask, FieldTask


def answers_fit(look: Look) -> Iterator[Finding]:
    """Reference answers are not longer than what is generated."""
    section, documents = look.recipe.evaluation, look.held_documents
    if section is None or not documents:
        return
    longer = sum(document.trained - 1 > section.max_new_tokens for document in documents)
    if longer > 0.05 * len(documents):
        longest = max(document.trained for document in documents)
        what = f"{longer / len(documents):.0%} of the reference answers are longer than evaluation.max_new_tokens"
        hint = f"evaluation.max_new_tokens={longest}"
        yield Finding("warning", "answers-cut-in-evaluation", what, "evaluation.max_new_tokens", hint)


def rules(look: Look) -> Iterator[Finding]:
    """The reference answers keep the rules that answers are judged by, and have the fields."""
    section, rows = look.recipe.evaluation, look.prepared.evaluation_rows()
    if section is None or not rows:
        return
    answers = [row[-1]["content"] for row in rows]
    for place, task in enumerate(section.tasks):
        checked = task.rules if isinstance(task, ComplianceTask) else [task] if isinstance(task, FieldTask) else []
        for rule in checked if task.file is None else ():
            if rule.pattern is None:
                continue
            kept = sum(
                bool(re.search(rule.pattern, answer, re.MULTILINE)) != getattr(rule, "forbidden", False)
                for answer in answers
            )
            if kept < 0.5 * len(answers):
                what = f"{1 - kept / len(answers):.0%} of the reference answers themselves fail `{rule.name}`"
                hint = "mend the pattern, or the rows: what is learnt can't be better than what is shown"
                yield Finding("warning", "references-fail", what, f"evaluation.tasks[{place}]", hint)
