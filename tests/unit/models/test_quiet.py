"""What libraries say when they are imported is not Danlu's to print; a fresh process shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

NO_KERNELS = "import sys; sys.modules['kernels'] = None"


def said(code: str) -> str:
    """Everything that Python code prints, to stdout or stderr, where nobody has named an accelerator."""
    own = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=own)
    return done.stdout + done.stderr


@pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16"),
    reason="bitsandbytes looks for kernels on processors with AVX512-BF16 alone",
)
def test_bitsandbytes_does_not_advise_kernels_that_are_never_used() -> None:
    pytest.importorskip("bitsandbytes")
    assert "kernels" in said(f"{NO_KERNELS}\nimport bitsandbytes"), "by itself it would"
    assert said(f"{NO_KERNELS}\nimport danlu.training.session, danlu.adapters.linear") == ""


def test_saving_a_model_does_not_let_deepspeed_speak(tiny_base: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    given = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
from danlu.models.quiet import quiet_transformers
from danlu.models.saving import save_model
with quiet_transformers():
    model, tokenizer = (one.from_pretrained({str(tiny_base)!r}) for one in (AutoModelForCausalLM, AutoTokenizer))
"""
    assert said(f"{given}\nsave_model(model, tokenizer, {str(tmp_path / 'saved')!r}, [2])") == ""


@pytest.mark.parametrize("before", [None, "0"])
def test_bitsandbytes_comes_without_the_compiler_and_leaves_the_environment_as_it_was(before: str | None) -> None:
    script = """
import os, sys
import danlu.adapters.lora
assert "bitsandbytes" in sys.modules
print("torch._inductor.compile_fx" in sys.modules, os.environ.get("TORCHDYNAMO_DISABLE"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHDYNAMO_DISABLE"}
    if before is not None:
        environment["TORCHDYNAMO_DISABLE"] = before
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["False", str(before)]
