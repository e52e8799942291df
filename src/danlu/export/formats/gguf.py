"""GGUF: one file with weights, tokenizer, template and end tokens, for llama.cpp, Ollama, LM Studio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.errors import Fault
from danlu.export.formats.interface import Format, Subject, decoder_alone
from danlu.export.formats.llama_cpp import convert, known_architectures, quantize, require_compiler
from danlu.export.formats.ollama import write_modelfile

# What llama.cpp's converter writes itself. Fewer bits are made from float32 by llama-quantize.
CONVERTED = ("f32", "f16", "bf16", "q8_0")
# Those that need no importance matrix.
_COMPILED = (
    *("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_1", "q4_k_s", "q4_k_m", "q5_0", "q5_1", "q5_k_s", "q5_k_m"),
    *("q6_k", "iq4_nl", "iq4_xs"),
)
_CONVERTER = "convert_hf_to_gguf.py"
_METADATA = "gguf-py/gguf/scripts/gguf_new_metadata.py"
_ENDS = ("eos", "eot", "eom")  # GGUF's names for tokens that end an answer


def refusal(subject: Subject, chosen: str | None) -> Fault | None:
    """Encoder-decoder models, and those that llama.cpp does not know.

    Raises:
        ResourceError: the converter can't be fetched, or there is no compiler for fewer bits.
    """
    if refused := decoder_alone(subject, "llama.cpp's server"):
        return refused
    if chosen not in CONVERTED:
        require_compiler()
    if subject.architecture not in known_architectures():
        return Fault(
            f"llama.cpp's converter does not know {subject.architecture}",
            str(subject.base),
            "an architecture that llama.cpp knows",
            "take --to merged or --to onnx",
        )
    return None


def write(subject: Subject, merged: Path, folder: Path, chosen: str | None) -> dict[str, Any]:
    """Writes `model.gguf`, and a Modelfile for Ollama beside it."""
    path = folder / "model.gguf"
    write_gguf(merged, path, chosen or "f16", subject.stop_ids)
    return {"file": path.name, "file_bytes": path.stat().st_size} | write_modelfile(path, merged, subject.stop_ids)


def write_gguf(model: Path, path: Path, chosen: str, stop_ids: Any) -> None:
    """A model folder as one file.

    Args:
        model: a Transformers model folder.
        path: of the file.
        chosen: a type.
        stop_ids: tokens at which llama.cpp must end an answer.
    """
    plain = path if chosen in CONVERTED else path.with_suffix(".f32.gguf")
    arguments = [str(model), "--outfile", str(plain), "--outtype", chosen if plain == path else "f32"]
    convert(_CONVERTER, arguments, "the conversion to GGUF")
    _add_ends(plain, stop_ids)
    if plain != path:
        quantize(plain, path, chosen)
        plain.unlink()


def _add_ends(path: Path, stop_ids: Any) -> None:
    """Writes the end tokens that the converter left out; it takes only what the tokenizer calls its end."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    ends = {end: field.contents() for end in _ENDS if (field := reader.get_field(f"tokenizer.ggml.{end}_token_id"))}
    del reader
    free = [end for end in _ENDS if end not in ends]
    lacking = [token for token in stop_ids if token not in ends.values()]
    added = list(zip(free, lacking, strict=False))
    if added:
        aside = path.with_suffix(".ends.gguf")
        words = [word for end, token in added for word in ("--special-token-by-id", end, str(token))]
        convert(_METADATA, [str(path), str(aside), *words, "--force"], "writing end tokens into the GGUF file")
        aside.replace(path)


FORMAT = Format(
    name="gguf",
    title="GGUF",
    refusal=refusal,
    write=write,
    tells_all=False,
    quantize=("f16", "f32", "bf16", "q8_0", *_COMPILED),
    size_factor=1.0,
    usage="llama-server -m {folder}/model.gguf",
)
