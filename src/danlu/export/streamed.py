"""A model folder computed without ever being whole in memory: each layer's weights are read when it is their turn.

All questions go through the model together, so that its weights are read once. The layers are Transformers' own;
Accelerate's hooks put weights into them and take them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.targets import skeleton
from danlu.data.template import prompt_ids
from danlu.engines.answers import next_tokens_of
from danlu.engines.interface import NextTokens
from danlu.export.stored import Stored, placed, stored_tensors
from danlu.models.decoder_start import decoder_start
from danlu.models.loading import choose_device
from danlu.models.quiet import quiet_transformers
from danlu.training.probes import Probes


class StreamedEngine:
    """Says how likely given tokens are, in float32; see `danlu.export.comparison.ScoresAll`.

    Args:
        folder: a checked model folder.
        tokenizer: its own.
        stop_ids: tokens that end an answer.

    Raises:
        ModelError: tensors are missing from the files.
    """

    def __init__(self, folder: Path, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        from accelerate.hooks import attach_align_device_hook

        self.tokenizer, self.stop_ids = tokenizer, list(stop_ids)
        self._model = _empty(folder)
        found = placed(stored_tensors(folder), self._model)
        self.can_stream = all(one.whole for one in found)
        weights = _Weights(self._model, found)
        for name, buffer in self._model.named_buffers():
            if name in weights:
                buffer.copy_(weights[name])
        self._device = choose_device()
        attach_align_device_hook(self._model, self._device, offload=True, weights_map=weights)
        self._start = decoder_start(self._model)

    def prompt_ids(self, messages: Sequence[Any]) -> list[int]:
        """A conversation's prompt, through the folder's own template."""
        return prompt_ids(self.tokenizer, messages)

    def next_tokens_of_all(self, probes: Probes, dtype: str) -> list[NextTokens]:
        """For each probe, how likely its recorded tokens are before each token of its recorded answer."""
        expected = [probe.expected[dtype] for probe in probes.probes]
        prompts = [probe.prompt_ids for probe in probes.probes]
        answers = [wanted.answer_ids for wanted in expected]
        if self._start is None:
            inputs = {"input_ids": _padded([[*a, *b[:-1]] for a, b in zip(prompts, answers, strict=True)])}
            begins = [len(prompt) - 1 for prompt in prompts]
        else:
            encoded = _padded(prompts)
            mask = _padded([[1] * len(prompt) for prompt in prompts])
            decoded = _padded([[self._start, *answer[:-1]] for answer in answers])
            inputs = {"input_ids": encoded, "attention_mask": mask, "decoder_input_ids": decoded}
            begins = [0] * len(prompts)
        places = [(row, begin + at) for row, begin in enumerate(begins) for at in range(len(answers[row]))]
        scored = []
        logits = self._logits({name: ids.to(self._device) for name, ids in inputs.items()}, places)
        for wanted, some in zip(expected, logits.split([len(answer) for answer in answers]), strict=True):
            scored.append(next_tokens_of(some, wanted.token_ids))
        return scored

    def _logits(self, inputs: dict[str, torch.Tensor], places: list[tuple[int, int]]) -> torch.Tensor:
        """`[places, vocabulary]`, float32: the head sees the last states of these places alone."""
        rows, columns = (torch.tensor(part, device=self._device) for part in zip(*places, strict=True))

        def chosen(_module: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
            return (states[0][rows, columns].unsqueeze(0), *states[1:])

        hook = self._model.get_output_embeddings().register_forward_pre_hook(chosen)
        try:
            with torch.inference_mode(), quiet_transformers():
                logits: torch.Tensor = self._model(**inputs, use_cache=False).logits[0].float().cpu()
        finally:
            hook.remove()
        return logits


class _Weights(Mapping[str, torch.Tensor]):
    """A model's parameters by name, read when asked for, in float32."""

    def __init__(self, model: Any, found: Sequence[Stored]) -> None:
        stored = {one.parameter: one for one in found if one.parameter}
        by_parameter: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            by_parameter.setdefault(id(parameter), []).append(name)
        self._stored = dict(stored)
        for names in by_parameter.values():  # one matrix under several names is stored under one of them, or more
            holder = next((stored[name] for name in names if name in stored), None)
            if holder:
                self._stored |= {name: stored.get(name, holder) for name in names}

    def __getitem__(self, name: str) -> torch.Tensor:
        one = self._stored[name]
        return one.read(torch.float32 if one.is_floating else None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _empty(folder: Path) -> Any:
    """The folder's model, in evaluation mode: its parameters are on the meta device, what it computes itself is not."""
    from accelerate import init_empty_weights

    model = skeleton(folder, dtype=torch.float32).eval()
    with quiet_transformers(), init_empty_weights():  # which unties what is one matrix, but computes buffers
        buffers = dict(type(model)(model.config).named_buffers())
    for name, buffer in buffers.items():
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner)._buffers[last] = buffer
    return model


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """`[rows, longest]`, filled up on the right with 0: what comes later is not seen by what came before."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
