"""What a model could do before it was tuned, and whether it still can: the general set before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from danlu.evaluation.general import KINDS, Item, Language, general_items
from danlu.evaluation.statistics import mean_interval

MODELS = ("base", "tuned")


def pick_items(languages: Sequence[Language], max_items: int | None = None) -> list[Item]:
    """Questions of the general set.

    Args:
        languages: which.
        max_items: of each language, spread evenly over the kinds; None: all.
    """
    picked: list[Item] = []
    for language in languages:
        items = general_items(language)
        by_kind = [[item for item in items if item.kind == kind] for kind in KINDS]
        turns = [kind[place] for place in range(max(map(len, by_kind))) for kind in by_kind if place < len(kind)]
        chosen = set(turns[:max_items])
        picked += [item for item in items if item in chosen]
    return picked


def run_forgetting(items: Sequence[Item], answer: Callable[[list[str], bool], list[str]], seed: int) -> dict[str, Any]:
    """Asks both models the same questions.

    Args:
        items: as `pick_items` gives them.
        answer: questions, whether the tuned model is asked → answers.
        seed: of the intervals' resampling.

    Returns:
        `items` (how many), `accuracy`: by model (`base`, `tuned`) and language `all` and each kind; `change`: by
        language `difference` (tuned less base) and its `interval` (95 %, paired bootstrap); `lost` and `gained`: the
        questions that only the base, only the tuned model answered rightly (name, question, expected, base, tuned).
    """
    questions = [item.question for item in items]
    answers = {model: answer(questions, model == "tuned") for model in MODELS}
    right = {model: [item.is_right(text) for item, text in zip(items, answers[model], strict=True)] for model in MODELS}
    languages = list(dict.fromkeys(item.language for item in items))
    differences = [int(tuned) - int(base) for base, tuned in zip(right["base"], right["tuned"], strict=True)]

    def shown(difference: int) -> list[dict[str, str]]:
        return [
            {
                "name": item.name,
                "question": item.question,
                "expected": item.expected(),
                **{model: answers[model][place] for model in MODELS},
            }
            for place, item in enumerate(items)
            if differences[place] == difference
        ]

    return {
        "items": len(items),
        "accuracy": {model: {one: _accuracy(items, right[model], one) for one in languages} for model in MODELS},
        "change": {one: _change(items, differences, one, seed) for one in languages},
        "lost": shown(-1),
        "gained": shown(1),
    }


def _accuracy(items: Sequence[Item], right: Sequence[bool], language: str) -> dict[str, float]:
    of_kind: dict[str, list[bool]] = {"all": []}
    for item, is_right in zip(items, right, strict=True):
        if item.language == language:
            of_kind["all"].append(is_right)
            of_kind.setdefault(item.kind, []).append(is_right)
    return {kind: sum(each) / len(each) for kind, each in of_kind.items()}


def _change(items: Sequence[Item], differences: Sequence[int], language: str, seed: int) -> dict[str, Any]:
    chosen = [each for item, each in zip(items, differences, strict=True) if item.language == language]
    return {"difference": sum(chosen) / len(chosen), "interval": mean_interval(chosen, seed)}
