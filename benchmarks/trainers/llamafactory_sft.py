"""LLaMA-Factory: bfloat16, its own loop; with --packed, rows packed without seeing each other (neat_packing).

Its `start_seconds` is null: rows, model and trainer are made within one call together with the training.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import ALPHA, LEARNING_RATE, RANK, SEED, TARGETS, accumulated, arguments, clock, read_rows, report
from llamafactory.train.sft import workflow
from llamafactory.train.tuner import run_exp


def main() -> None:
    """Two epochs; the second is timed."""
    asked = arguments()
    rows = [{"messages": row["prompt"] + row["completion"]} for row in read_rows(asked.rows)]
    timer, seen = clock(), {"tokens": 0}

    get_dataset = workflow.get_dataset

    def counted(*positional: Any, **named: Any) -> Any:
        found = get_dataset(*positional, **named)
        packs = found["train_dataset"]
        seen["tokens"] = sum(sum(1 for place in mask if place) for mask in packs["attention_mask"])
        return found

    workflow.get_dataset = counted
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        about = {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
        (Path(folder) / "dataset_info.json").write_text(json.dumps({"rows": about}), encoding="utf-8")
        run_exp(
            {
                "model_name_or_path": asked.model,
                "stage": "sft",
                "do_train": True,
                "finetuning_type": "lora",
                "lora_rank": RANK,
                "lora_alpha": ALPHA,
                "lora_target": ",".join(TARGETS),
                "template": "smollm2",
                "dataset": "rows",
                "dataset_dir": folder,
                "cutoff_len": asked.max_tokens,
                "packing": asked.packed,
                "neat_packing": asked.packed,
                "per_device_train_batch_size": asked.micro_batch,
                "gradient_accumulation_steps": accumulated(asked),
                "num_train_epochs": 2,
                "learning_rate": LEARNING_RATE,
                "lr_scheduler_type": "constant",
                "bf16": asked.dtype == "bfloat16",
                "use_cpu": not torch.cuda.is_available(),
                "disable_gradient_checkpointing": True,
                "seed": SEED,
                "save_strategy": "no",
                "output_dir": f"{folder}/out",
                "report_to": "none",
                "logging_steps": 1,
                "disable_tqdm": True,
                "overwrite_cache": True,
            },
            callbacks=[timer],
        )
    report(seen["tokens"], timer.epochs, None, timer.loss, steps=len(timer.losses))


if __name__ == "__main__":
    main()
