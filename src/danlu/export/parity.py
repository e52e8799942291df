"""The parity gate: an exported folder against the run's probes, from raw messages to the last stop token."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from danlu.data.records import RowFault
from danlu.data.template import prompt_ids, render, stop_ids
from danlu.engines.interface import Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.models.folder import check_model_folder, model_config
from danlu.models.loading import choose_device, choose_dtype, generation_defaults, load_base
from danlu.models.tokenizer import load_tokenizer
from danlu.runs import MANIFEST, file_hash, read_manifest
from danlu.training.probes import Expected, Probes


@dataclass(frozen=True)
class Bounds:
    """What an export must reach. Logits in nats.

    Attributes:
        max_logit_difference: at most this between any two of the largest logits of a position.
        argmax_agreement: at least this share of the positions has the same likeliest token.
        greedy_equal: at least this share of the greedy answers is the same text.
    """

    max_logit_difference: float
    argmax_agreement: float
    greedy_equal: float


# float32 differs from base + adapter by the order of additions alone. bfloat16 keeps 8 bits of each weight.
BOUNDS = {"float32": Bounds(1e-3, 1.0, 1.0), "bfloat16": Bounds(1.0, 0.95, 0.8)}


@dataclass
class Comparison:
    """An export computed in one dtype against the probes in one dtype.

    Attributes:
        max_logit_difference: largest over all positions and their 32 likeliest tokens, in nats.
        argmax_agreement: share of positions with the same likeliest token.
        greedy_equal: number of greedy answers with the same text.
        prompts: number of probes.
        positions: number of compared next-token distributions.
        against: dtype of the probes.
    """

    max_logit_difference: float
    argmax_agreement: float
    greedy_equal: int
    prompts: int
    positions: int
    against: str


@dataclass
class Parity:
    """The verdict on one export: figures by dtype, and every fault found."""

    written_dtype: str
    by_dtype: dict[str, Comparison] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """The keys that `danlu export --json` promises; the figures are those of the written dtype."""
        chosen = self.by_dtype.get(self.written_dtype)
        figures = vars(chosen) if chosen else {}
        names = ("max_logit_difference", "argmax_agreement", "greedy_equal", "prompts")
        return {
            "passed": self.passed,
            **{name: figures.get(name) for name in names},
            "faults": self.faults,
            "written_dtype": self.written_dtype,
            "by_dtype": {name: vars(comparison) for name, comparison in self.by_dtype.items()},
        }


def check_parity(folder: Path, probes: Probes) -> Parity:
    """Loads an exported folder afresh and compares it with the probes.

    Args:
        folder: a model folder; its own config, tokenizer, template and stop tokens are used.
        probes: of the run that it was exported from.

    Raises:
        ModelError: the folder can't be loaded at all.
    """
    check_model_folder(folder)
    parity = Parity(str(model_config(folder).get("dtype", "float32")))
    parity.faults += _changed_files(folder)
    tokenizer = load_tokenizer(folder)
    text_faults, stops = _text_faults(folder, tokenizer, probes)
    parity.faults += text_faults
    model = load_base(folder, torch.float32)
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        parity.faults.append(f"weights: {broken[0]} has NaN or infinite values")
        return parity
    engine = TransformersEngine(model, tokenizer, stops, batch_size=len(probes.probes))
    if parity.written_dtype == "float32":
        parity.by_dtype["float32"] = compare(engine, probes, "float32")
    native = choose_dtype("auto", choose_device()) == torch.bfloat16 and "bfloat16" in probes.probes[0].expected
    engine.model = model.to(torch.bfloat16) if native else model.to(torch.bfloat16).to(torch.float32)
    parity.by_dtype["bfloat16"] = compare(engine, probes, "bfloat16" if native else "float32")
    parity.faults += _figure_faults(parity)
    return parity


def compare(engine: TransformersEngine, probes: Probes, dtype: str) -> Comparison:
    """Logits along the answers that were recorded, then the engine's own greedy answers."""
    questions = [probe.messages for probe in probes.probes]
    expected = [probe.expected[dtype] for probe in probes.probes]
    difference, agreed, positions = 0.0, 0, 0
    for messages, wanted in zip(questions, expected, strict=True):
        logits = engine.logits(prompt_ids(engine.tokenizer, messages), wanted.answer_ids).cpu()
        difference = max(difference, _logit_difference(logits, wanted))
        agreed += int((logits.argmax(-1) == wanted.token_ids[:, 0]).sum())
        positions += len(wanted.answer_ids)
    answers = engine.generate(questions, Sampling(probes.max_new_tokens))
    equal = sum(list(answer.ids) == wanted.answer_ids for answer, wanted in zip(answers, expected, strict=True))
    return Comparison(difference, agreed / positions, equal, len(expected), positions, dtype)


def _logit_difference(logits: torch.Tensor, wanted: Expected) -> float:
    if logits.shape[-1] <= int(wanted.token_ids.max()):
        return float("inf")
    found = logits.gather(-1, wanted.token_ids.long())
    return float((found - wanted.logits).abs().max())


def _changed_files(folder: Path) -> list[str]:
    """Files that are not what the export wrote, if it left a manifest."""
    if not (folder / MANIFEST).is_file():
        return []
    files = read_manifest(folder, "export")["files"]
    return [
        f"files: {name} is {'missing' if not (folder / name).is_file() else 'not what the export wrote'}"
        for name, entry in files.items()
        if not (folder / name).is_file() or file_hash(folder / name) != entry["sha256"]
    ]


def _text_faults(folder: Path, tokenizer: Any, probes: Probes) -> tuple[list[str], list[int]]:
    """Faults of template, tokenizer and stop tokens; and the stop tokens that the folder itself gives."""
    faults = []
    try:
        stops = stop_ids(tokenizer, generation_defaults(folder))
        texts = sum(render(tokenizer, probe.messages, ask=True) != probe.text for probe in probes.probes)
        ids = sum(prompt_ids(tokenizer, probe.messages) != probe.prompt_ids for probe in probes.probes)
    except RowFault as fault:
        return [f"chat template: {fault}"], probes.stop_ids
    if texts:
        faults.append(f"chat template: {texts} of {len(probes.probes)} prompts read otherwise than in training")
    elif ids:
        faults.append(f"tokenizer: {ids} of {len(probes.probes)} prompts have other ids than in training")
    if stops != probes.stop_ids:
        faults.append(f"stop tokens: {stops}, in training {probes.stop_ids}")
    return faults, stops


def _figure_faults(parity: Parity) -> list[str]:
    """Figures of the written dtype that are out of bounds."""
    found, bounds = parity.by_dtype[parity.written_dtype], BOUNDS[parity.written_dtype]
    faults = []
    if not found.max_logit_difference <= bounds.max_logit_difference:
        faults.append(
            f"logits: differ by up to {found.max_logit_difference:.3g}, allowed {bounds.max_logit_difference:g}"
        )
    if found.argmax_agreement < bounds.argmax_agreement:
        faults.append(f"argmax: {found.argmax_agreement:.2%} agree, required {bounds.argmax_agreement:.0%}")
    if found.greedy_equal < bounds.greedy_equal * found.prompts:
        faults.append(
            f"greedy text: {found.greedy_equal} of {found.prompts} answers are the same, "
            f"required {bounds.greedy_equal:.0%}"
        )
    return faults


def parity_lines(parity: dict[str, Any]) -> list[str]:
    """The figures for people, a line for each dtype; `parity` as in the JSON."""
    return [
        f"{dtype}: {found['greedy_equal']} of {found['prompts']} greedy answers identical, largest logit difference "
        f"{found['max_logit_difference']:.2g}, argmax agreement {found['argmax_agreement']:.2%}"
        for dtype, found in parity["by_dtype"].items()
    ]
