"""An adapter against its run's probes where an engine gives answers with probabilities, and no logits.

An answer is followed along the recorded one: where the engine says another token, it is asked again from there with the
recorded token put in. So each place of each recorded answer is compared, mostly by one question for each probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch

from danlu.data.records import Message
from danlu.engines.batching import Ask
from danlu.engines.drawing import Token
from danlu.engines.interface import NextTokens, Sampling
from danlu.errors import Fault, WorkError
from danlu.export.comparison import BOUNDS, compare
from danlu.serving.proof import judge
from danlu.training.probes import Probe, Probes


class Renders(Protocol):
    """Makes prompts, and knows where answers end."""

    @property
    def stop_ids(self) -> Collection[int]:
        """Tokens that end an answer."""
        ...

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt."""
        ...


@dataclass(frozen=True)
class Asked:
    """See `danlu.export.comparison.ScoresAll`.

    Attributes:
        answer: gives the tokens of a greedy answer, each with its likeliest tokens.
        adapter: by its name in the engine.
        num_likeliest: tokens that are told at each place.
        at_once: questions.
    """

    answer: Callable[[Ask], list[Token]]
    adapter: str | None
    num_likeliest: int
    at_once: int

    def next_tokens_of_all(self, probes: Probes, dtype: str) -> list[NextTokens]:
        """For each probe, how likely its recorded tokens are before each token of its recorded answer."""
        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(lambda probe: self._follow(probe, dtype), probes.probes))

    def _follow(self, probe: Probe, dtype: str) -> NextTokens:
        wanted = probe.expected[dtype]
        likeliest = torch.empty(len(wanted.answer_ids), dtype=torch.long)
        found = torch.full(wanted.token_ids.shape, math.nan)
        place = 0
        while place < len(wanted.answer_ids):
            prompt = (*probe.prompt_ids, *wanted.answer_ids[:place])
            sampling = Sampling(len(wanted.answer_ids) - place)
            tokens = self.answer(Ask(prompt, sampling, self.adapter, num_likeliest=self.num_likeliest))
            if not tokens:
                raise WorkError(Fault("the engine made no token"))
            for token in tokens:
                likeliest[place] = token.id
                told = dict(token.likeliest)
                for column, asked in enumerate(wanted.token_ids[place].tolist()):
                    found[place, column] = told.get(asked, math.nan)
                place += 1
                if token.id != wanted.answer_ids[place - 1]:
                    break
        return NextTokens(likeliest, found)


def prove_by_asking(asked: Asked, engine: Renders, probes: Probes, kind: str, where: str) -> dict[str, object]:
    """Requires that an adapter says in an engine what it said when it was trained, as far as that tells.

    Args:
        asked: the engine, asked with the adapter.
        engine: that makes the prompts.
        probes: of the adapter's run.
        kind: what the weights are in, a key of `BOUNDS`.
        where: for the message.

    Returns:
        The figures.

    Raises:
        GateError: with everything that was missed.
    """
    faults = []
    if not set(probes.stop_ids) <= set(engine.stop_ids):
        faults.append(f"answers end at {sorted(engine.stop_ids)}, and were trained to at {sorted(probes.stop_ids)}")
    if any(engine.prompt_ids(probe.messages) != probe.prompt_ids for probe in probes.probes):
        faults.append("the prompts have other tokens than in training: template or tokenizer changed")
    return judge(faults, compare(asked, probes, "float32", tells_all=False), BOUNDS[kind], where)
