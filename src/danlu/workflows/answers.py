"""The same held-out questions, answered by each trial of a sweep and by the base."""

from __future__ import annotations

import json
from typing import Any

from danlu.data.questions import question_of
from danlu.evaluation.metrics import Given
from danlu.evaluation.tasks import measure_answers
from danlu.recipe import LoadedRecipe
from danlu.training.probes import read_probes
from danlu.training.trained import open_run


def trial_answers(own: LoadedRecipe) -> dict[str, Any]:
    """What a trial's run answered to its probes, and what the recipe's tasks measure of that.

    Returns:
        `answers` (`messages`, `reference`, `text`) and `metrics`.
    """
    run = open_run(own.run_folder)
    probes = read_probes(own.run_folder)
    references = {_key(messages[:-1]): messages[-1]["content"] for messages in run.evaluation_rows()}
    answers = []
    for probe in probes.probes:
        expected = next(iter(probe.expected.values()))  # the first is in the run's own dtype
        answers.append((probe.messages, references.get(_key(probe.messages), ""), expected))
    given = [
        Given(expected.text, "stop" if _ended(expected, probes) else "length", len(expected.answer_ids))
        for *_, expected in answers
    ]
    answer = "completion" if answers and answers[0][0][0]["role"] == "prompt" else "assistant"
    questions = [question_of([*messages, {"role": answer, "content": right}]) for messages, right, _ in answers]
    tasks = run.recipe.evaluation.tasks if run.recipe.evaluation else ()
    return {
        "answers": [{"messages": m, "reference": r, "text": expected.text} for m, r, expected in answers],
        "metrics": measure_answers(tasks, questions, given),
    }


def _ended(expected: Any, probes: Any) -> bool:
    return bool(expected.answer_ids) and expected.answer_ids[-1] in probes.stop_ids


def _key(messages: Any) -> str:
    return json.dumps(messages, sort_keys=True)


def base_answers(own: LoadedRecipe, shared: Any, trial: dict[str, Any]) -> dict[str, Any] | None:
    """What the base answers to a trial's questions; None if the trial failed.

    Args:
        own: the trial's recipe.
        shared: lends the base.
        trial: what it came to.
    """
    if not trial.get("answers"):
        return None
    from danlu.data.template import stop_ids
    from danlu.engines.interface import Sampling
    from danlu.engines.transformers_engine import TransformersEngine
    from danlu.models.loading import choose_device, choose_dtype, generation_defaults
    from danlu.models.source import find_model
    from danlu.models.tokenizer import load_tokenizer

    recipe = own.recipe
    base = find_model(recipe.model.name, recipe.model.revision)
    tokenizer, stops_by = load_tokenizer(base), generation_defaults(base)
    model = shared.load(base, choose_dtype(recipe.model.dtype, choose_device()), recipe.model.quantization)
    engine = TransformersEngine(model, tokenizer, stop_ids(tokenizer, stops_by), batch_size=len(trial["answers"]))
    questions = [answer["messages"] for answer in trial["answers"]]
    found = engine.generate(questions, Sampling(read_probes(own.run_folder).max_new_tokens))
    if recipe.adapter is not None:
        shared.take_back(model)
    return {"model": recipe.model.name, "texts": {_key(q): a.text for q, a in zip(questions, found, strict=True)}}
