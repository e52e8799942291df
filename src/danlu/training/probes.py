"""Probes: what the trained model says to 20 held-out questions, kept so that every export can be proven by it.

`probes/probes.json` has, for each probe, its messages, the rendered prompt and its ids; the stop ids; and for each
dtype the greedy answer. `probes/logits.safetensors` has, for each dtype, the largest next-token logits before each
token of that answer, and what makes probabilities of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.data.records import Messages
from danlu.data.template import prompt_ids, render
from danlu.engines.interface import Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import Fault, FolderError

TOP_K = 32
_JSON, _LOGITS = "probes.json", "logits.safetensors"


@dataclass(frozen=True)
class Expected:
    """What one probe expects in one dtype. A answer tokens, K logits each.

    Attributes:
        answer_ids: the greedy answer with its stop token, if it came to one.
        text: the answer's text.
        token_ids: `[A, K]` the likeliest next tokens, likeliest first.
        logits: `[A, K]` their logits, float32.
        logsumexp: `[A]` of all logits, float32: logits - logsumexp are log-probabilities; None in runs of before.
    """

    answer_ids: list[int]
    text: str
    token_ids: torch.Tensor
    logits: torch.Tensor
    logsumexp: torch.Tensor | None = None


@dataclass(frozen=True)
class Probe:
    """One question, as messages, as rendered text, as token ids, and the answers expected by dtype."""

    messages: Messages
    text: str
    prompt_ids: list[int]
    expected: dict[str, Expected]


@dataclass(frozen=True)
class Probes:
    """All probes of a run.

    Attributes:
        stop_ids: tokens that end an answer.
        max_new_tokens: longest answer that was generated.
        probes: the questions.
    """

    stop_ids: list[int]
    max_new_tokens: int
    probes: list[Probe]


def expect(engine: TransformersEngine, questions: Sequence[Messages], max_new_tokens: int) -> list[Expected]:
    """Answers the questions greedily and takes the logits of those answers."""
    answers = engine.generate(questions, Sampling(max_new_tokens))
    expected = []
    for messages, answer in zip(questions, answers, strict=True):
        logits = engine.logits(prompt_ids(engine.tokenizer, messages), answer.ids)
        top = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
        tokens, largest, total = top.indices.int().cpu(), top.values.cpu(), logits.logsumexp(-1).cpu()
        expected.append(Expected(list(answer.ids), answer.text, tokens, largest, total))
    return expected


def write_probes(
    folder: Path,
    tokenizer: Any,
    stop_ids: list[int],
    questions: Sequence[Messages],
    max_new_tokens: int,
    by_dtype: dict[str, list[Expected]],
) -> None:
    """Writes `probes.json` and `logits.safetensors`."""
    from safetensors.torch import save_file

    folder.mkdir()
    probes = []
    tensors: dict[str, torch.Tensor] = {}
    for index, messages in enumerate(questions):
        answers = {}
        for dtype, expected in by_dtype.items():
            answers[dtype] = {"ids": expected[index].answer_ids, "text": expected[index].text}
            tensors[f"{dtype}.{index:02d}.token_ids"] = expected[index].token_ids.contiguous()
            tensors[f"{dtype}.{index:02d}.logits"] = expected[index].logits.contiguous()
            if (total := expected[index].logsumexp) is not None:
                tensors[f"{dtype}.{index:02d}.logsumexp"] = total.contiguous()
        probes.append(
            {
                "messages": messages,
                "text": render(tokenizer, messages, ask=True),
                "prompt_ids": prompt_ids(tokenizer, messages),
                "answers": answers,
            }
        )
    save_file(tensors, folder / _LOGITS)
    content = {"stop_ids": stop_ids, "max_new_tokens": max_new_tokens, "probes": probes}
    (folder / _JSON).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_probes(run: Path) -> Probes:
    """The probes of a run folder.

    Raises:
        FolderError: there are none, or they are broken.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = run / "probes"
    try:
        content = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        tensors = load_file(folder / _LOGITS)
        probes = [
            Probe(
                item["messages"],
                item["text"],
                item["prompt_ids"],
                {
                    dtype: Expected(
                        answer["ids"],
                        answer["text"],
                        tensors[f"{dtype}.{index:02d}.token_ids"],
                        tensors[f"{dtype}.{index:02d}.logits"],
                        tensors.get(f"{dtype}.{index:02d}.logsumexp"),
                    )
                    for dtype, answer in item["answers"].items()
                },
            )
            for index, item in enumerate(content["probes"])
        ]
        return Probes(content["stop_ids"], content["max_new_tokens"], probes)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise FolderError(
            Fault(
                f"the run's probes can't be read: {error}",
                str(folder),
                "a run that was trained to its end",
                "train again; a run without probes can't prove an export",
            )
        ) from error
