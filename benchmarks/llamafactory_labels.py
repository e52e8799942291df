"""Run by labels.py in LLaMA-Factory's own environment: times its preprocessing of a JSONL file of Alpaca rows.

PYTHON llamafactory_labels.py ROWS MODEL_FOLDER WORKERS MAX_TOKENS
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer


def main() -> None:
    """Prints seconds, packed sequences and tokens as JSON."""
    rows, model, workers, max_tokens = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": str(rows.resolve())}}))
        model_args, data_args, training_args, _, _ = get_train_args(
            {
                "model_name_or_path": model,
                "stage": "sft",
                "do_train": True,
                "finetuning_type": "lora",
                "template": "smollm2",
                "dataset": "rows",
                "dataset_dir": folder,
                "cutoff_len": max_tokens,
                "packing": True,
                "neat_packing": True,
                "preprocessing_num_workers": workers,
                "overwrite_cache": True,
                "output_dir": f"{folder}/out",
                "report_to": "none",
            }
        )
        tokenizer = load_tokenizer(model_args)["tokenizer"]
        template = get_template_and_fix_tokenizer(tokenizer, data_args)
        begun = time.perf_counter()
        dataset = get_dataset(template, model_args, data_args, training_args, stage="sft", tokenizer=tokenizer)
        seconds = time.perf_counter() - begun
        packed = dataset["train_dataset"]
        trained = sum(sum(label != -100 for label in labels) for labels in packed["labels"][:50])
        result = {"seconds": seconds, "packed_sequences": len(packed), "trained_tokens_of_first_50": trained}
        print(json.dumps(result))


if __name__ == "__main__":
    main()
