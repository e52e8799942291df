"""The next token of one answer: the likeliest one, or one that is drawn by the answer's own dice."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from danlu.engines.interface import Sampling

_FEW = 256  # likeliest tokens that mostly hold top_p; sorting a whole vocabulary takes milliseconds


@dataclass(frozen=True)
class Token:
    """A token that was chosen.

    Attributes:
        id: of the token.
        log_probability: by the model itself, before temperature and cuts, in nats; None where nobody asked.
        likeliest: ids and log-probabilities of the likeliest tokens at this place.
    """

    id: int
    log_probability: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


class Dice:
    """Draws the tokens of one answer; the same seed and logits give the same tokens, whoever else is answered."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator()
        if sampling.temperature > 0:
            self._generator.manual_seed(sampling.seed)

    def draw(self, logits: torch.Tensor) -> int:
        """A token by logits `[vocabulary]`, float32: temperature, then top_k, then top_p, as Transformers does."""
        sampling = self.sampling
        scaled = (logits / max(sampling.temperature, 1e-4)).cpu()
        chosen: torch.Tensor | None = None
        if sampling.top_k:
            scaled, chosen = scaled.topk(min(sampling.top_k, len(scaled)))
        probabilities = scaled.softmax(-1)
        if sampling.top_p < 1.0:
            probabilities, order = _nucleus(probabilities, sampling.top_p)
            chosen = order if chosen is None else chosen[order]
        point = torch.rand((), generator=self._generator, dtype=torch.float64)
        sums = probabilities.double().cumsum(0)
        place = min(int(torch.searchsorted(sums, point * sums[-1], right=True)), len(sums) - 1)
        return place if chosen is None else int(chosen[place])


def _nucleus(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest set of likeliest tokens with this probability, likeliest first, and which they are."""
    largest, order = probabilities.topk(min(_FEW, len(probabilities)))
    if float(largest.sum()) < top_p:
        largest, order = probabilities.sort(descending=True, stable=True)
    count = int((largest.cumsum(0) - largest < top_p).sum())
    return largest[: max(count, 1)], order[: max(count, 1)]


def described(token: int, logits: torch.Tensor, num_likeliest: int | None) -> Token:
    """A chosen token with what was asked of its probabilities; `num_likeliest` None: nothing."""
    if num_likeliest is None:
        return Token(token)
    log_probabilities = logits.log_softmax(-1)
    top = log_probabilities.topk(min(num_likeliest, len(logits)))
    likeliest = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return Token(token, float(log_probabilities[token]), likeliest)
