"""A base is loaded so that using it costs no more memory than it must, or says why it can't be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from danlu.errors import ModelError
from danlu.models.loading import load_base


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux does")
def test_the_first_token_of_many_answers_does_not_copy_the_head_for_each(tmp_path: Path) -> None:
    script = f"""
import resource, torch
from transformers import LlamaConfig, LlamaForCausalLM
from pathlib import Path
from danlu.models.loading import load_base
sizes = {{"vocab_size": 20000, "hidden_size": 256, "intermediate_size": 32, "num_hidden_layers": 1}}
LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained({str(tmp_path)!r})
model = load_base(Path({str(tmp_path)!r}), torch.bfloat16).requires_grad_(False)  # as a base under an adapter
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.inference_mode():
    model(input_ids=torch.ones(64, 9, dtype=torch.long), logits_to_keep=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 200 << 10  # copied, the head takes 640 MiB


def test_weights_in_a_form_that_wants_another_package_are_refused(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("transformers.utils.quantization_config.is_compressed_tensors_available", lambda: False)
    with pytest.raises(ModelError, match=r"compressed-tensors.* is required(.|\n)*hint: take a merged export"):
        load_base(folder, torch.float32)
