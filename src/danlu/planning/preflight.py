"""The checks before training: everything that can be known without weights, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from danlu.data.run import prepare
from danlu.engines.local import local_answers
from danlu.errors import InputError
from danlu.models.source import find_model
from danlu.models.tokenizer import load_tokenizer
from danlu.planning.checks import course, judging, machine, method, rows, tokens
from danlu.planning.findings import Finding, PreflightError
from danlu.planning.look import Look
from danlu.recipe import LoadedRecipe, Recipe
from danlu.recipe.training_schema import AutoBackend
from danlu.training.processes import Processes, processes_of_environment
from danlu.training.session import plan_training

Check = Callable[[Look], Iterator[Finding]]
Require = Callable[[LoadedRecipe], None]

CHECKS: tuple[Check, ...] = (
    # the rows
    rows.dropped,
    rows.cut,
    rows.losses_allowed,
    rows.untrained,
    rows.little_trained,
    rows.repeated,
    rows.one_answer,
    rows.held_in_training,
    # tokens, labels, template
    tokens.end_trained,
    tokens.same_prompt,
    tokens.first_labels,
    tokens.double_start,
    tokens.generation_stops,
    tokens.dated_template,
    tokens.template_adds,
    tokens.vocabulary,
    tokens.context,
    tokens.unknown_tokens,
    tokens.foreign_language,
    # the method
    method.rank,
    method.targets,
    method.scale,
    method.dropout,
    method.learning_rate,
    method.loraplus,
    method.regularisation,
    method.clipping,
    method.half_precision,
    # the course
    course.epochs,
    course.rows_for_size,
    course.rows,
    course.steps,
    course.batch,
    course.unseen_rows,
    course.schedule,
    course.held_out,
    course.checkpoints,
    course.evaluation_interval,
    # how it is judged
    judging.answers_fit,
    judging.rules,
    # the machine
    machine.emulated,
    machine.resources,
)


def preflight(loaded: LoadedRecipe, require_tasks: Require | None = None) -> list[Finding]:
    """Checks a recipe, or each of its adapters.

    Args:
        loaded: the recipe.
        require_tasks: requires that what evaluation will ask can be asked; None: that is left alone.

    Returns:
        What was found, the worst first; the base's weights are not read, the rows are prepared (and kept).
    """
    found: dict[Finding, None] = {}
    for one in loaded.each():
        found |= dict.fromkeys(_check_one(one, require_tasks))
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.level))


def require_flightworthy(findings: list[Finding]) -> None:
    """Requires that no error was found.

    Raises:
        PreflightError: with all that was found.
    """
    if any(finding.level == "error" for finding in findings):
        raise PreflightError(findings)


def _check_one(loaded: LoadedRecipe, require_tasks: Require | None) -> list[Finding]:
    look, found = _look(loaded, require_tasks)
    if look is None:
        return found
    for check in CHECKS:
        found += check(look)
    return found


def _processes(recipe: Recipe) -> Processes:
    """Those of this run; where nobody has started several yet, two if the recipe's backend is for several."""
    found = processes_of_environment()
    several = not isinstance(recipe.training.backend, AutoBackend)
    return Processes(world_size=2) if several and found.world_size == 1 else found


def _look(loaded: LoadedRecipe, require_tasks: Require | None = None) -> tuple[Look | None, list[Finding]]:
    """Opens a recipe; what keeps it from being opened, all at once."""
    recipe, found = loaded.recipe, list[Finding]()

    def ask(code: str, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except InputError as error:
            found.extend(Finding("error", code, one.what, one.where, one.hint, one.allowed) for one in error.faults)
            return None

    if require_tasks:
        ask("evaluation", lambda: require_tasks(loaded))
    base = ask("model", lambda: find_model(recipe.model.name, recipe.model.revision))
    if base is None:
        from danlu.data.inputs import require_files

        ask("data", lambda: require_files(loaded))
        return None, found
    ask("shape", lambda: plan_training(recipe, base, _processes(recipe)))
    tokenizer = ask("tokenizer", lambda: load_tokenizer(base))
    prepared = tokenizer and ask("data", lambda: prepare(loaded, base, local_answers))
    if found or prepared is None:
        return None, found
    return Look(loaded, base, tokenizer, prepared), found
