"""GGUF-LoRA: the adapter alone, for llama.cpp to put on a GGUF file of its base; many adapters share one base."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from danlu.engines.exported import BASE
from danlu.errors import Fault
from danlu.export.formats import gguf
from danlu.export.formats.interface import Format, Subject
from danlu.export.formats.llama_cpp import convert
from danlu.runs import danlu_home, write_json
from danlu.training.trained import base_hash


def refusal(subject: Subject, chosen: str | None) -> Fault | None:
    """What llama.cpp can't put on a base: anything but plain low-rank updates of an unquantised, known decoder.

    Raises:
        ResourceError: the converter can't be fetched.
    """
    if (what := _in_the_way(subject.adapter_config(), subject.base_bits)) is not None:
        return Fault(what, "--to gguf-lora", hint="take --to gguf, which merges the adapter")
    return gguf.refusal(subject, chosen)


def _in_the_way(config: dict[str, Any], base_bits: str | None) -> str | None:
    if not config:
        return "the run trained the model itself and has no adapter"
    if config.get("peft_type") != "LORA":
        return f"llama.cpp knows no adapter of type {config.get('peft_type')}, only LoRA"
    if config.get("use_dora"):
        return "llama.cpp does not know DoRA's magnitudes"
    if base_bits:
        return f"the adapter was trained on a base in {base_bits}, which no GGUF file of the base is"
    if config.get("modules_to_save"):
        return "the adapter has modules that were trained whole, which llama.cpp does not take from an adapter"
    if config.get("bias", "none") != "none":
        return "the adapter has biases, which llama.cpp does not take from an adapter"
    if _odd_scales(config):
        return "the adapter's scale differs from module to module, which llama.cpp does not take from an adapter"
    return None


def _odd_scales(config: dict[str, Any]) -> bool:
    """Whether alpha / rank of llama.cpp, with one alpha and each module's own rank, is not each module's scale."""
    if config.get("use_rslora"):
        return bool(config["rank_pattern"] or config["alpha_pattern"])
    return bool(config.get("alpha_pattern"))


def write(subject: Subject, merged: Path, folder: Path, chosen: str | None) -> dict[str, Any]:
    """Writes `adapter.gguf`, and in `base.json` which base it goes on."""
    path, chosen = folder / "adapter.gguf", chosen or "f16"
    write_adapter(subject, path, chosen)
    base = base_file(subject, chosen)
    write_json(folder / BASE, {"gguf": str(base), "weights_sha256": base_hash(subject.base), "quantize": chosen})
    return {"file": path.name, "file_bytes": path.stat().st_size, "base_gguf": str(base)}


def write_adapter(subject: Subject, path: Path, chosen: str) -> None:
    """The adapter alone as one GGUF file; `chosen` is one of the format's types."""
    assert subject.adapter is not None
    config = subject.adapter_config()
    # llama.cpp scales by alpha / rank alone: alpha·√rank / rank is rsLoRA's alpha / √rank.
    scale = config["r"] ** 0.5 if config.get("use_rslora") else 1.0
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".adapter") as aside:
        plain = config | {"lora_alpha": config["lora_alpha"] * scale, "use_rslora": False}
        write_json(Path(aside) / "adapter_config.json", plain)
        (Path(aside) / "adapter_model.safetensors").symlink_to(
            (subject.adapter / "adapter_model.safetensors").absolute()
        )
        words = [aside, "--base", str(subject.base), "--outfile", str(path), "--outtype", chosen]
        convert("convert_lora_to_gguf.py", words, "the conversion to a GGUF adapter")


def base_file(subject: Subject, chosen: str) -> Path:
    """The base as a GGUF file, made once and kept: what the adapter is proven on, and can be run on."""
    path = danlu_home() / "models" / "gguf" / f"{base_hash(subject.base)[:16]}-{chosen}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.stem}.{os.getpid()}.gguf")
        try:
            gguf.write_gguf(subject.base, aside, chosen, subject.stop_ids)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    return path.absolute()


FORMAT = Format(
    name="gguf-lora",
    title="GGUF adapter",
    refusal=refusal,
    write=write,
    tells_all=False,
    quantize=("f16", "f32", "bf16", "q8_0"),
    from_merged=False,
    size_factor=0.6,
    usage="llama-server -m BASE.gguf --lora {folder}/adapter.gguf",
)
