"""What is measured beyond the tasks' own questions: attacks on them, what was forgotten, how long answers take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.adapters.lora import base_of
from danlu.data.records import Messages
from danlu.engines.interface import Sampling
from danlu.errors import Fault, RecipeError
from danlu.evaluation.attacks import ATTACKS
from danlu.evaluation.attacks.interface import Attack
from danlu.evaluation.attacks.longer_context import longer_context
from danlu.evaluation.combining import row_scores
from danlu.evaluation.forgetting import pick_items, run_forgetting
from danlu.evaluation.general import general_text
from danlu.evaluation.journal import Journal
from danlu.evaluation.latency import run_latency
from danlu.evaluation.metrics import Given
from danlu.evaluation.parts import HELD_OUT, MODELS, AskedRow, Part, spread
from danlu.evaluation.perplexity import perplexity
from danlu.evaluation.robustness import Attacked, attack_rows, run_robustness
from danlu.recipe.evaluation_schema import EvaluationSection
from danlu.recipe.robustness_schema import ForgettingSection, LatencySection, RobustnessSection
from danlu.tracking.progress import say

_KEYS = ("robustness", "forgetting", "latency")


@dataclass(frozen=True)
class UnderAttack:
    """Held-out rows, and what each attack makes of them.

    Attributes:
        rows: those that are attacked.
        attacked: by attack.
        left_out: why other attacks can't be made, by name.
    """

    rows: list[AskedRow]
    attacked: list[Attacked]
    left_out: dict[str, str]


def attack_parts(section: RobustnessSection | None, parts: Sequence[Part], tokenizer: Any) -> UnderAttack:
    """Attacks held-out questions; no model is asked yet.

    Args:
        section: of the recipe; None: nothing is attacked.
        parts: tasks with their rows.
        tokenizer: of the model that will be asked.

    Raises:
        RecipeError: no task scores generated answers to held-out rows.
        DataError: an attack changes fewer than 90 % of its rows.
    """
    if section is None:
        return UnderAttack([], [], {})
    scoring = _scoring(parts)
    if not scoring:
        what = "no task scores answers to held-out rows, so a drop could not be seen"
        hint = "add one to evaluation.tasks, as in {type: rouge_l}; or leave robustness out"
        raise RecipeError(Fault(what, "evaluation.robustness", "answers, rouge_l, compliance, field", hint))
    common = [row for row in scoring[0].of.rows if all(any(row is one for one in part.rows) for part in scoring)]
    rows = spread(common, section.max_rows)
    attacks: dict[str, Attack] = {name: ATTACKS[name] for name in section.attacks}
    if "longer_context" in attacks:
        attacks["longer_context"] = longer_context(section.context_tokens, _counter(tokenizer))
    attacked, left_out = attack_rows([row.question.messages for row in rows], attacks, section.seed)
    return UnderAttack(rows, attacked, left_out)


def measure_beyond(
    engine: Any, settings: EvaluationSection, parts: Sequence[Part], target: UnderAttack, journal: Journal, quiet: bool
) -> dict[str, Any]:
    """`robustness`, `forgetting` and `latency`, each None where the recipe does not ask for it.

    Args:
        engine: with both models.
        settings: of the recipe.
        parts: answered and scored.
        target: what `attack_parts` gave.
        journal: what is in it is not measured again.
        quiet: no progress on stderr.
    """
    measures: dict[str, Callable[[Any], dict[str, Any]]] = {
        "robustness": lambda section: _robustness(engine, settings.max_new_tokens, section, parts, target),
        "forgetting": lambda section: _forgetting(engine, section, settings.seed),
        "latency": lambda section: _latency(engine, section),
    }
    found: dict[str, Any] = dict.fromkeys(_KEYS)
    for name, measure in measures.items():
        section = getattr(settings, name)
        if section is None:
            continue
        if journal.get("beyond", name) is None:
            if not quiet:
                say(f"{name} ...")
            journal.put({("beyond", name): measure(section)})
        found[name] = journal.get("beyond", name)
    return found


def _scoring(parts: Sequence[Part]) -> list[Part]:
    """Tasks that score a generated answer to a held-out row by itself."""
    return [
        part
        for part in parts
        if part.generates and part.of.name == HELD_OUT and hasattr(part.task, "score") and _metrics(part)
    ]


def _metrics(part: Part) -> list[Any]:
    return [one for one in part.task.metrics if (one.kind, one.better, one.style) == ("mean", "higher", "share")]


def _robustness(
    engine: Any, max_new_tokens: int, section: RobustnessSection, parts: Sequence[Part], target: UnderAttack
) -> dict[str, Any]:
    scoring = _scoring(parts)

    def answer(conversations: list[Messages]) -> list[str]:
        return [one.text for one in engine.generate(conversations, Sampling(max_new_tokens))]

    def score(texts: list[str]) -> list[float]:
        return [_score(scoring, row, text) for row, text in zip(target.rows, texts, strict=True)]

    conversations = [row.question.messages for row in target.rows]
    before = [row.answers["tuned"].text for row in target.rows]
    found = run_robustness(conversations, target.attacked, answer, score, section.seed, before)
    metrics = [metric.name for part in scoring for metric in _metrics(part)]
    return {**found, "score": metrics, "left_out": target.left_out}


def _score(scoring: Sequence[Part], row: AskedRow, text: str) -> float:
    """Mean of all metrics of an answer."""
    values = []
    for part in scoring:
        task: Any = part.task
        scores = task.score(row.question, Given(text))
        values += [row_scores(metric.kind, [scores[metric.name]])[0] for metric in _metrics(part)]
    return float(sum(values) / len(values))


def _forgetting(engine: Any, section: ForgettingSection, seed: int) -> dict[str, Any]:
    def answer(questions: list[str], tuned: bool) -> list[str]:
        conversations = [[{"role": "user", "content": text}] for text in questions]
        return [one.text for one in engine.generate(conversations, Sampling(section.max_new_tokens), tuned)]

    found = run_forgetting(pick_items(section.languages, section.max_items), answer, seed)
    measured = None
    if section.perplexity and not base_of(engine.model).config.is_encoder_decoder:
        texts = {one: engine.tokenizer.encode(general_text(one), add_special_tokens=False) for one in section.languages}
        measured = {
            model: {one: perplexity(engine, ids, model == "tuned") for one, ids in texts.items()} for model in MODELS
        }
    return {**found, "perplexity": measured}


def _counter(tokenizer: Any) -> Callable[[str], int]:
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def _latency(engine: Any, section: LatencySection) -> dict[str, Any]:
    return run_latency(
        engine,
        _counter(engine.tokenizer),
        lambda messages: len(engine.prompt_ids(messages)),
        section.prompt_tokens,
        section.new_tokens,
        section.repeats,
        section.language,
        getattr(base_of(engine.model).config, "max_position_embeddings", None),
    )
