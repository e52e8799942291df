"""What a format is told, and what it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.errors import Fault
from danlu.models.folder import is_encoder_decoder, model_config


@dataclass(frozen=True)
class Subject:
    """What is exported, as far as it is known before any work.

    Attributes:
        base: folder of the base model.
        adapter: folder of the adapter; None where the model itself was trained.
        base_bits: how the base was quantised in training, such as `nf4`; None where it was not.
        stop_ids: tokens that end an answer, the template's own first.
        calibration: gives token ids of up to so many training documents.
    """

    base: Path
    adapter: Path | None
    base_bits: str | None
    stop_ids: Sequence[int]
    calibration: Callable[[int], list[list[int]]]

    @property
    def architecture(self) -> str:
        """The class in Transformers, such as `LlamaForCausalLM`."""
        names = model_config(self.base).get("architectures") or ["unknown"]
        return str(names[0])

    @property
    def has_encoder(self) -> bool:
        """Whether an encoder reads the question, as in T5."""
        return is_encoder_decoder(self.base)

    def adapter_config(self) -> dict[str, Any]:
        """PEFT's config of the adapter; empty without one."""
        if self.adapter is None:
            return {}
        config: dict[str, Any] = json.loads((self.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return config


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: after `--to`.
        title: for people, as in a model card.
        refusal: what stands against this export, known before any work; None where nothing does.
        write: fills an empty folder, from the merged float32 model's folder and `--quantize`; gives what is worth
            telling of it. Without `merged`, from the adapter alone.
        quantize: what `--quantize` may be, the default first; empty where there is no choice.
        from_merged: whether the merged model is needed.
        size_factor: disk needed in the end, in sizes of the merged float32 model.
        tells_all: whether the engine that runs it knows the probability of every token, or of its likeliest only.
        usage: how people run it, a line of a shell or of Python; `{folder}` is the export's,
            `{auto}` the class of Transformers that loads it, `{graph}` the first ONNX graph.
    """

    name: str
    title: str
    refusal: Callable[[Subject, str | None], Fault | None]
    write: Callable[[Subject, Path, Path, str | None], dict[str, Any]]
    quantize: tuple[str, ...] = ()
    from_merged: bool = True
    size_factor: float = 1.0
    tells_all: bool = True
    usage: str = ""


def decoder_alone(subject: Subject, what: str) -> Fault | None:
    """The refusal of an encoder-decoder model."""
    if not subject.has_encoder:
        return None
    return Fault(
        f"{what} does not take encoder-decoder models such as this {subject.architecture}",
        "--to",
        "merged, onnx, onnx-int8, int8",
        "take one of those",
    )
