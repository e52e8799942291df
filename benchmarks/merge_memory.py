"""Memory and time of a merge and of its gate, each in a process of its own, for a model larger than memory may be.

    python benchmarks/merge_memory.py --folder /tmp/seven --shape llama-7b --max-shard-size 2GB --out RESULT.json

A base of the shape with random bfloat16 weights and a LoRA of rank 16 on all linear layers are written to the folder
(which is removed in the end), merged to bfloat16 and computed layer by layer over twenty questions with answers of 32
tokens. Peaks are the process's largest resident size, its program and libraries and the pages of mapped files included,
and the largest size of its own memory alone (RssAnon), looked at every 20 ms.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine import describe_run, write_result
from pydantic import ByteSize, TypeAdapter
from random_model import _TOKENIZER, SHAPES

from danlu.adapters.targets import resolve_targets, skeleton
from danlu.data.template import prompt_ids
from danlu.export.comparison import compare
from danlu.export.merge import write_tuned
from danlu.export.shards import Planned, into_shards, write_shards
from danlu.export.streamed import StreamedEngine
from danlu.export.tensors import Source
from danlu.models.embedded import embedded_model_folder
from danlu.models.tokenizer import load_tokenizer
from danlu.training.probes import Expected, Probe, Probes

_QUESTIONS, _ANSWER_TOKENS, _SHARD_BYTES = 20, 32, 5_000_000_000


def write_base(shape: str, folder: Path) -> None:
    """Config, tokenizer and weights, a tensor at a time; tensors of one shape have the same numbers."""
    folder.mkdir(parents=True)
    SHAPES[shape]().save_pretrained(folder)
    for name in _TOKENIZER:
        shutil.copyfile(embedded_model_folder("smollm2-135m-instruct") / name, folder / name)
    state = skeleton(folder).state_dict()
    torch.manual_seed(0)
    drawn: dict[tuple[int, ...], torch.Tensor] = {}

    def numbers() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in state.items():
            size = tuple(tensor.shape)
            if size not in drawn:
                drawn[size] = (torch.randn(size) * 0.02 + float(len(size) == 1)).bfloat16()
            yield name, drawn[size]

    planned = [Planned(name, tuple(tensor.shape), torch.bfloat16) for name, tensor in state.items()]
    write_shards(folder, into_shards(planned, _SHARD_BYTES), numbers())


def write_adapter(base: Path, folder: Path) -> None:
    """LoRA of rank 16 on all linear layers, with random numbers."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file

    model = skeleton(base)
    config = LoraConfig(r=16, lora_alpha=32, target_modules=resolve_targets(model, "all-linear"), task_type="CAUSAL_LM")
    state = get_peft_model_state_dict(get_peft_model(model, config), save_embedding_layers=False)
    config.save_pretrained(folder)
    numbers = {name: torch.randn(tensor.shape) * 0.01 for name, tensor in state.items()}
    save_file(numbers, folder / "adapter_model.safetensors", {"format": "pt"})


def merge(folder: Path, max_shard_bytes: int) -> dict[str, Any]:
    """The merge; what the adapter was given for is in `written`."""
    (folder / "merged").mkdir()
    source = Source(folder / "base", torch.bfloat16, None, folder / "adapter")
    return write_tuned(source, folder / "base", folder / "merged", "bfloat16", max_shard_bytes)


def gate(folder: Path, _: int) -> dict[str, Any]:
    """The layer-by-layer comparison; random numbers are expected, so its figures mean nothing."""
    tokenizer = load_tokenizer(folder / "merged")
    torch.manual_seed(0)
    probes = []
    for number in range(_QUESTIONS):
        messages: Any = [{"role": "user", "content": f"What may I bring on the train, and what not? Case {number}."}]
        tokens = torch.randint(20, 49_000, (_ANSWER_TOKENS, 32), dtype=torch.int32)
        expected = Expected(
            tokens[:, 0].tolist(), "", tokens, torch.zeros(tokens.shape), torch.full((_ANSWER_TOKENS,), 10.0)
        )
        probes.append(Probe(messages, "", prompt_ids(tokenizer, messages), {"float32": expected}))
    engine = StreamedEngine(folder / "merged", tokenizer, [2])
    assert engine.can_stream
    compared = compare(engine, Probes([2], _ANSWER_TOKENS, probes), "float32")
    return {"positions": compared.positions, "prompt_tokens": sum(len(probe.prompt_ids) for probe in probes)}


STAGES = {"merge": merge, "gate": gate}


def memory_bytes(kind: str) -> int:
    """Of this process, as Linux tells it: `VmHWM` its peak, `RssAnon` what it holds now that is of no file.

    getrusage's peak begins with that of the process that started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(kind)).split()[1])


def measured(stage: str, folder: Path, max_shard_bytes: int) -> dict[str, Any]:
    """Runs a stage here; its peaks and seconds."""
    largest, done = [memory_bytes("RssAnon")], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            largest[0] = max(largest[0], memory_bytes("RssAnon"))

    watcher = threading.Thread(target=watch)
    before, started = memory_bytes("VmHWM"), time.perf_counter()
    watcher.start()
    try:
        about = STAGES[stage](folder, max_shard_bytes)
    finally:
        done.set()
        watcher.join()
    return {
        **about,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_rss_bytes": memory_bytes("VmHWM"),
        "peak_own_bytes": largest[0],
        "rss_before_bytes": before,
    }


def in_a_process(stage: str, asked: argparse.Namespace) -> dict[str, Any]:
    """A stage in a fresh process."""
    command = [sys.executable, __file__, "--folder", str(asked.folder), "--stage", stage]
    command += ["--max-shard-size", asked.max_shard_size]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(stage, found, file=sys.stderr, flush=True)  # the next stage may take long
    return found


def main() -> None:
    """Everything, or one stage for `in_a_process`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder, removed in the end")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-7b")
    parser.add_argument("--max-shard-size", default="2GB")
    parser.add_argument("--stage", choices=sorted(STAGES))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    shard_bytes = int(TypeAdapter(ByteSize).validate_python(asked.max_shard_size))
    if asked.stage:
        print(json.dumps(measured(asked.stage, asked.folder, shard_bytes)))
        return
    try:
        write_base(asked.shape, asked.folder / "base")
        write_adapter(asked.folder / "base", asked.folder / "adapter")
        result: dict[str, Any] = {"shape": asked.shape, "max_shard_size": asked.max_shard_size}
        result |= {stage: in_a_process(stage, asked) for stage in ("merge", "gate")}
        shard = max(path.stat().st_size for path in (asked.folder / "merged").glob("*.safetensors"))
        result["largest_shard_bytes"] = shard
        result["merge_peak_over_shard"] = round(result["merge"]["peak_rss_bytes"] / shard, 3)
        result |= describe_run(torch.get_num_threads())
    finally:
        shutil.rmtree(asked.folder, ignore_errors=True)
    print(json.dumps(result, indent=2))
    if asked.out:
        write_result(asked.out, result)


if __name__ == "__main__":
    main()
