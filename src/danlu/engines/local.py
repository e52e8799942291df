"""A local model that answers prompts, loaded by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danlu.engines.transformers_engine import TransformersEngine

_LONGEST_ANSWER_TOKENS = 512


def local_engine(name: str, batch_size: int = 16) -> TransformersEngine:
    """Loads a model, computed in what suits this machine.

    Args:
        name: folder, .gguf file, short name, hub id or ModelScope id.
        batch_size: conversations answered at once.

    Raises:
        ModelError: nothing answers to the name.
    """
    from danlu.data.template import stop_ids
    from danlu.engines.transformers_engine import TransformersEngine
    from danlu.models.loading import choose_device, choose_dtype, generation_defaults, load_base
    from danlu.models.source import find_model
    from danlu.models.tokenizer import load_tokenizer

    base = find_model(name)
    tokenizer = load_tokenizer(base)
    model = load_base(base, choose_dtype("auto", choose_device()))
    return TransformersEngine(model, tokenizer, stop_ids(tokenizer, generation_defaults(base)), batch_size)


def local_answers(name: str) -> Callable[[list[str]], list[str]]:
    """Loads a model and gives what answers prompts with it, greedily.

    Args:
        name: folder, .gguf file, short name, hub id or ModelScope id.

    Raises:
        ModelError: nothing answers to the name.
    """
    from danlu.engines.interface import Sampling

    engine = local_engine(name)

    def answer(prompts: list[str]) -> list[str]:
        conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
        answers = engine.generate(conversations, Sampling(_LONGEST_ANSWER_TOKENS, 0.0))
        # An answer that did not end in time is none.
        return [answer.text if answer.finish == "stop" else "" for answer in answers]

    return answer
