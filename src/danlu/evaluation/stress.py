"""Attacks, the general set and latency on both models of an engine, on plain values: what the stage calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from danlu.adapters.lora import base_of
from danlu.data.records import Messages
from danlu.data.template import prompt_ids
from danlu.engines.interface import Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.evaluation.attacks import ATTACKS, longer_context
from danlu.evaluation.forgetting import MODELS, pick_items, run_forgetting
from danlu.evaluation.general import Language, general_text
from danlu.evaluation.latency import run_latency
from danlu.evaluation.perplexity import perplexity
from danlu.evaluation.robustness import Attacked, Score, attack_rows, changed_inputs, run_robustness
from danlu.models.decoder_start import decoder_start
from danlu.models.tokenizer import tokenize
from danlu.recipe.evaluation_schema import EvaluationSection
from danlu.tracking.progress import progress


def stress_models(
    engine: TransformersEngine,
    settings: EvaluationSection,
    questions: Sequence[Messages],
    score: Score,
    note: Callable[[str, Callable[[], Any]], Any],
    quiet: bool = False,
) -> dict[str, Any]:
    """What the recipe's `robustness`, `forgetting` and `latency` ask for.

    Args:
        engine: of both models.
        settings: the recipe's.
        questions: those that are attacked, without their reference.
        score: an answer to each question → the score of each, larger is better.
        note: a name and what measures → what was measured under that name before, else now.
        quiet: show no progress.

    Returns:
        `robustness` (as `attack_models` gives it), `forgetting` (`check_general`) and `latency` (`time_models`), None
        for what is off.
    """
    found: dict[str, Any] = dict.fromkeys(("robustness", "forgetting", "latency"))
    if attacks := settings.robustness:
        names, tokens, longest = attacks.attacks, attacks.context_tokens, settings.max_new_tokens

        def attack_both() -> Any:
            return attack_models(engine, questions, score, names, tokens, attacks.seed, longest, quiet)

        found["robustness"] = note("robustness", attack_both)
    if general := settings.forgetting:
        of = (general.languages, general.max_items, general.max_new_tokens, general.perplexity)
        found["forgetting"] = note("forgetting", lambda: check_general(engine, *of, 0, quiet))
    if timed := settings.latency:
        asked = (timed.prompt_tokens, timed.new_tokens, timed.repeats, timed.language)
        found["latency"] = note("latency", lambda: time_models(engine, *asked))
    return found


def attack(
    tokenizer: Any, questions: Sequence[Messages], attacks: Sequence[str], context_tokens: int, seed: int
) -> tuple[list[Attacked], dict[str, str]]:
    """Changes questions by attacks; see `danlu.evaluation.robustness.attack_rows`. No model is needed.

    Args:
        tokenizer: counts the tokens of `longer_context`.
        questions: conversations without their reference.
        attacks: names, as in `ATTACKS`.
        context_tokens: of `longer_context`.
        seed: of all chance.
    """
    longer = longer_context(context_tokens, lambda text: len(tokenize(tokenizer, text)))
    chosen = {name: longer if name == "longer_context" else ATTACKS[name] for name in attacks}
    return attack_rows(questions, chosen, seed)


def attack_models(
    engine: TransformersEngine,
    questions: Sequence[Messages],
    score: Score,
    attacks: Sequence[str],
    context_tokens: int,
    seed: int,
    max_new_tokens: int,
    quiet: bool = False,
) -> dict[str, Any]:
    """Attacks questions and asks both models.

    Args:
        engine: of both models.
        questions: conversations without their reference.
        score: an answer to each question → the score of each, larger is better.
        attacks: names, as in `ATTACKS`.
        context_tokens: of `longer_context`, by the engine's tokenizer.
        seed: of all chance.
        max_new_tokens: longest answer.
        quiet: show no progress.

    Returns:
        `seed`, `context_tokens`, `left_out` (why, by attack), `inputs` (by attack, rows and changed questions), and
        `models`: for `base` and `tuned` what `danlu.evaluation.robustness.run_robustness` gives.

    Raises:
        DataError: an attack changes fewer than 90 % of its rows; nothing was asked then.
    """
    attacked, left_out = attack(engine.tokenizer, questions, attacks, context_tokens, seed)
    sampling, results = Sampling(max_new_tokens), {}
    for model in MODELS:
        total = len(questions) + sum(len(one.rows) for one in attacked)
        with progress(f"attacks on the {model} model", total, quiet) as bar:
            done = 0

            def answer(asked: list[Messages], tuned: bool = model == "tuned", bar: Any = bar) -> list[str]:
                nonlocal done
                before = done
                answers = engine.generate(asked, sampling, tuned, lambda count: bar.update(before + count))
                done += len(asked)
                return [each.text for each in answers]

            results[model] = run_robustness(questions, attacked, answer, score, seed)
    about = {"seed": seed, "context_tokens": context_tokens, "left_out": left_out}
    return {**about, "inputs": changed_inputs(attacked), "models": results}


def check_general(
    engine: TransformersEngine,
    languages: Sequence[Language],
    max_items: int | None,
    max_new_tokens: int,
    with_perplexity: bool,
    seed: int,
    quiet: bool = False,
) -> dict[str, Any]:
    """Asks both models the general set, and reads them the general text.

    Returns:
        What `danlu.evaluation.forgetting.run_forgetting` gives, and `perplexity`: by language `tokens`, `base` and
        `tuned`; null where it was not asked for, or the model is an encoder-decoder one, which reads no plain text.
    """
    items = pick_items(languages, max_items)

    def answer(asked: list[str], tuned: bool) -> list[str]:
        conversations: list[Messages] = [[{"role": "user", "content": text}] for text in asked]
        with progress(f"general questions to the {MODELS[tuned]} model", len(asked), quiet) as bar:
            answers = engine.generate(conversations, Sampling(max_new_tokens), tuned, bar.update)
        return [each.text for each in answers]

    found = run_forgetting(items, answer, seed)
    causal = decoder_start(base_of(engine.model)) is None
    return {**found, "perplexity": _perplexities(engine, languages) if with_perplexity and causal else None}


def time_models(
    engine: TransformersEngine, lengths: Sequence[int], new_tokens: int, repeats: int, language: Language
) -> dict[str, Any]:
    """Times answers of the tuned model; see `danlu.evaluation.latency.run_latency`."""

    def count(text: str) -> int:
        return len(tokenize(engine.tokenizer, text))

    def prompt(messages: Messages) -> int:
        return len(prompt_ids(engine.tokenizer, messages))

    longest = getattr(base_of(engine.model).config.get_text_config(), "max_position_embeddings", None)
    return run_latency(engine, count, prompt, lengths, new_tokens, repeats, language, longest)


def _perplexities(engine: TransformersEngine, languages: Sequence[Language]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for language in languages:
        ids: list[int] = engine.tokenizer(general_text(language))["input_ids"]
        of_models = {model: perplexity(engine, ids, model == "tuned") for model in MODELS}
        found[language] = {"tokens": len(ids), **of_models}
    return found
