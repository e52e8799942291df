"""The parity gate: an export against the run's probes, from raw messages to the last stop token.

An engine that was built for the export answers the probes' messages by its own template, tokenizer and stop tokens.
A merged folder's weights are compared with base + adapter too, where the base is at hand: figures say that something
is wrong, weights say what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from danlu.data.records import RowFault
from danlu.data.template import render, stop_ids
from danlu.engines.interface import ScoringEngine
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import ModelError
from danlu.export.causes import weight_faults
from danlu.export.comparison import BOUNDS, Bounds, Comparison, compare
from danlu.export.stored import stored_tensors
from danlu.export.streamed import StreamedEngine
from danlu.export.tensors import Source
from danlu.models.folder import broken_weights, check_model_folder, model_config
from danlu.models.loading import choose_device, choose_dtype, generation_defaults, load_base
from danlu.models.tokenizer import load_tokenizer
from danlu.planning.devices import free_memory_bytes
from danlu.runs import MANIFEST, changed_files, read_manifest
from danlu.training.probes import Probe, Probes

_SPARE_BYTES = 2 << 30  # beside a model's weights: activations, logits and the program itself


@dataclass
class Parity:
    """The verdict on one export.

    Attributes:
        written: dtype of the weights, or the format: a key of `BOUNDS`.
        by_dtype: figures by the dtype that was computed in.
        faults: everything that was found wrong.
        layer_by_layer: whether the model was computed without ever being whole in memory.
    """

    written: str
    by_dtype: dict[str, Comparison] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    layer_by_layer: bool = False

    @property
    def passed(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.faults

    def judge(self, bounds: Mapping[str, Bounds] = BOUNDS) -> Parity:
        """Adds to the faults what is out of the bounds of what was written."""
        self.faults += self.by_dtype[self.written].out_of(bounds[self.written])
        return self

    def to_json(self) -> dict[str, Any]:
        """The keys that `danlu export --json` promises; the figures are those of the written dtype."""
        by_dtype = {name: comparison.to_json() for name, comparison in self.by_dtype.items()}
        figures = by_dtype.get(self.written, {})
        names = ("max_logit_difference", "mean_kl", "max_kl", "argmax_agreement", "greedy_equal", "prompts")
        return {
            "passed": self.passed,
            **{name: figures.get(name) for name in names},
            "faults": self.faults,
            "written_dtype": self.written,
            "by_dtype": by_dtype,
            "layer_by_layer": self.layer_by_layer,
        }


def check_engine(
    engine: ScoringEngine,
    probes: Probes,
    written: str,
    against: str = "float32",
    tells_all: bool = True,
    bounds: Mapping[str, Bounds] = BOUNDS,
) -> Parity:
    """The gate for any engine that was built for an export.

    Args:
        engine: of the export; its own template, tokenizer and stop tokens are used.
        probes: of the run that was exported.
        written: what was written: a key of `bounds`.
        against: dtype of the probes.
        tells_all: whether the engine knows the probability of every token, or of its likeliest only.
        bounds: what each format must keep to.
    """
    parity = Parity(written, faults=text_faults(engine, probes))
    ends = {*engine.stop_ids, *getattr(engine, "also_ends_at", ())}
    if not set(engine.stop_ids) <= set(probes.stop_ids) <= ends:
        parity.faults.append(f"stop tokens: {sorted(engine.stop_ids)}, in training {probes.stop_ids}")
    parity.by_dtype[written] = compare(engine, probes, against, tells_all)
    return parity.judge(bounds)


def check_parity(
    folder: Path, probes: Probes, tuned: Source | None = None, layer_by_layer: bool | None = None
) -> Parity:
    """The gate for a merged folder, which is loaded afresh.

    Args:
        folder: a model folder; its own config, tokenizer, template and stop tokens are used.
        probes: of the run that it was exported from.
        tuned: what the run's model is made of, to compare weights with; None if it is not at hand.
        layer_by_layer: computes without the whole model in memory; None: where there is not enough.

    Raises:
        ModelError: the folder is no model folder, or has no tokenizer or safe weights.
    """
    parity = Parity("float32", faults=file_faults(folder))
    if (folder / "config.json").is_file() and (broken := broken_weights(folder)):
        parity.faults += [f"files: {Path(fault.where).name}: {fault.what}" for fault in broken]
        return parity
    check_model_folder(folder)
    parity.written = str(model_config(folder).get("dtype", "float32"))
    tokenizer = load_tokenizer(folder)
    if tuned is not None:
        parity.faults += [*_config_faults(folder, tuned.base), *weight_faults(folder, tuned, parity.written)]
    try:
        _compare_folder(parity, folder, probes, tokenizer, layer_by_layer)
    except ModelError as error:
        parity.faults += [f"weights: {fault.what}" for fault in error.faults]
    return parity


def _compare_folder(parity: Parity, folder: Path, probes: Probes, tokenizer: Any, layer_by_layer: bool | None) -> None:
    parity.faults += _end_faults(folder, tokenizer, probes)
    stops = _ends(folder) or probes.stop_ids
    if layer_by_layer or (layer_by_layer is None and not _fits(folder)):
        streamed = StreamedEngine(folder, tokenizer, stops)
        if streamed.can_stream:
            parity.layer_by_layer = True
            parity.faults += text_faults(streamed, probes)
            parity.by_dtype[parity.written] = compare(streamed, probes, "float32")
            parity.judge()
            return
    model = load_base(folder, torch.float32)
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    engine = TransformersEngine(model, tokenizer, stops, batch_size=len(probes.probes))
    parity.faults += text_faults(engine, probes)
    if broken:
        parity.faults.append(f"weights: {broken[0]} has NaN or infinite values")
        return
    if parity.written == "float32":
        parity.by_dtype["float32"] = compare(engine, probes, "float32")
    native = choose_dtype("auto", choose_device()) == torch.bfloat16 and "bfloat16" in probes.probes[0].expected
    engine.model = model.to(torch.bfloat16) if native else model.to(torch.bfloat16).to(torch.float32)
    parity.by_dtype["bfloat16"] = compare(engine, probes, "bfloat16" if native else "float32")
    parity.judge()


def _ends(folder: Path) -> list[int]:
    """Tokens at which Transformers, vLLM and others end an answer of this folder's model: no template is asked."""
    ends = generation_defaults(folder).get("eos_token_id") or model_config(folder).get("eos_token_id")
    return sorted([ends] if isinstance(ends, int) else ends or [])


def _end_faults(folder: Path, tokenizer: Any, probes: Probes) -> list[str]:
    """What the folder says of the end of answers, where it is not what training ended them with."""
    ends = _ends(folder)
    if ends != probes.stop_ids:
        return [f"stop tokens: {ends or 'none is named'}, in training {probes.stop_ids}"]
    try:
        known = stop_ids(tokenizer, generation_defaults(folder))
    except RowFault as fault:
        return [f"chat template: {fault}"]
    return [] if known == ends else [f"stop tokens: template and tokenizer end with {known}, training with {ends}"]


def _fits(folder: Path) -> bool:
    """Whether the folder's model can be loaded in float32."""
    needed = sum(4 * one.numbers for one in stored_tensors(folder)) + _SPARE_BYTES
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else free_memory_bytes()
    return needed <= free


def file_faults(folder: Path) -> list[str]:
    """Files that are not what the export wrote, if it left a manifest."""
    if not (folder / MANIFEST).is_file():
        return []
    files = read_manifest(folder, "export")["files"]
    return [
        f"files: {name} is {'missing' if not (folder / name).is_file() else 'not what the export wrote'}"
        for name in changed_files(folder, files, files)
    ]


# What an export may say otherwise than its base.
_FREE = {
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config"),
}


def _config_faults(folder: Path, base: Path) -> list[str]:
    """Keys of the config that are not the base's."""
    from transformers import AutoConfig

    found, wanted = (AutoConfig.from_pretrained(place).to_dict() for place in (folder, base))
    return [
        f"config: {key} is {found.get(key)}, the base's {wanted.get(key)}"
        for key in sorted((found.keys() | wanted.keys()) - _FREE)
        if found.get(key) != wanted.get(key) and "model_type" not in str(wanted.get(key))
    ]


def text_faults(engine: ScoringEngine | StreamedEngine, probes: Probes) -> list[str]:
    """Faults of template and tokenizer: prompts that an engine makes otherwise than training did."""
    faults = []
    total = len(probes.probes)
    try:
        found = [engine.prompt_ids(probe.messages) for probe in probes.probes]
        texts = [_text(engine, probe) for probe in probes.probes]
    except RowFault as fault:
        return [f"chat template: {fault}"]
    other_ids = [ids for ids, probe in zip(found, probes.probes, strict=True) if ids != probe.prompt_ids]
    other_texts = sum(text is not None and text != probe.text for text, probe in zip(texts, probes.probes, strict=True))
    if other_texts:
        faults.append(f"chat template: {other_texts} of {total} prompts read otherwise than in training")
    elif other_ids:
        part = "prompt" if texts[0] is None else "tokenizer"
        faults.append(
            f"{part}: {len(other_ids)} of {total} prompts have other ids than in training{_shift(found, probes)}"
        )
    return faults


def _text(engine: Any, probe: Probe) -> str | None:
    """The rendered prompt, if the engine has a tokenizer of Transformers'."""
    tokenizer = getattr(engine, "tokenizer", None)
    return render(tokenizer, probe.messages, ask=True) if hasattr(tokenizer, "chat_template") else None


def _shift(found: Sequence[Sequence[int]], probes: Probes) -> str:
    """Says so if the ids of all prompts are off by the same number, but for some that are special."""
    off: dict[int, int] = {}
    for ids, probe in zip(found, probes.probes, strict=True):
        if len(ids) != len(probe.prompt_ids):
            return ""
        for there, wanted in zip(ids, probe.prompt_ids, strict=True):
            off[there - wanted] = off.get(there - wanted, 0) + 1
    most = max(off, key=lambda one: off[one])
    return f": the vocabulary is shifted by {most:+}" if most and off[most] > sum(off.values()) / 2 else ""


def parity_lines(parity: dict[str, Any]) -> list[str]:
    """The figures for people, a line for each dtype; `parity` as in the JSON."""
    return [
        f"{dtype}: {found['greedy_equal']} of {found['prompts']} greedy answers identical, largest logit difference "
        f"{_said(found['max_logit_difference'], '.2g')}, argmax agreement {found['argmax_agreement']:.2%}"
        for dtype, found in parity["by_dtype"].items()
    ]


def _said(value: float | None, form: str) -> str:
    return "infinite" if value is None else format(value, form)
