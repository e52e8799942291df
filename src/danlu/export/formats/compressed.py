"""AWQ and GPTQ: linear layers in 4 bits, chosen by what the training rows put through them; loads in vLLM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from danlu.engines.compressed import TOOL
from danlu.environments import run_tool, tool_folder
from danlu.errors import Fault
from danlu.export.formats import compress_script
from danlu.export.formats.interface import Format, Subject, decoder_alone
from danlu.export.formats.onnx import copy_description
from danlu.runs import write_json

# AWQ tries twenty scales of each layer on all rows: 128 found no better ones than 32, in three times the time.
_CALIBRATION_ROWS = {"awq": 32, "gptq": 128}


def refusal(subject: Subject, chosen: str | None) -> Fault | None:
    """Encoder-decoder models, whose layers llmcompressor does not put in order.

    Raises:
        ResourceError: llmcompressor's environment can't be made.
    """
    refused = decoder_alone(subject, "llmcompressor")
    if refused is None:
        tool_folder(TOOL)
    return refused


def _writer(method: str) -> Callable[[Subject, Path, Path, str | None], dict[str, Any]]:
    def write(subject: Subject, merged: Path, folder: Path, chosen: str | None) -> dict[str, Any]:
        rows = subject.calibration(_CALIBRATION_ROWS[method])
        asked = folder / ".asked.json"
        words = {"model": str(merged.absolute()), "out": str(folder.absolute()), "method": method, "rows": rows}
        write_json(asked, words)
        run_tool(TOOL, [str(Path(compress_script.__file__)), str(asked)], f"the quantisation by {method.upper()}")
        asked.unlink()
        config = (folder / "config.json").read_bytes()  # with how it was quantised
        copy_description(merged, folder)
        (folder / "config.json").write_bytes(config)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        note = f"Calibrated on {len(rows)} training rows. Checked with Transformers; vLLM itself was not run."
        return {"file_bytes": size, "calibration_rows": len(rows), "notes": [note]}

    return write


def _format(method: str) -> Format:
    return Format(
        name=method,
        title=f"{method.upper()}, 4-bit weights (compressed-tensors)",
        refusal=refusal,
        write=_writer(method),
        size_factor=0.5,
        usage="vllm serve {folder}",
    )


AWQ, GPTQ = _format("awq"), _format("gptq")
