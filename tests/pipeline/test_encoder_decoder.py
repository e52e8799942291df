"""The whole way of an encoder-decoder model: a small T5 that writes ISO dates learns to write them as Germans do.

The base is random at first and is taught in plain torch to turn `4 march 2021` into `2021-03-04`. Danlu's LoRA then
teaches it `04.03.2021`, and it is judged on dates that it has not seen.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kernels_there import THERE
from sequence_models import t5_tokenizer
from transformers import T5Config, T5ForConditionalGeneration

from danlu.data.template import label
from danlu.errors import GateError
from danlu.evaluation.run import run_evaluation
from danlu.export.run import run_check, run_export
from danlu.recipe import load_recipe
from danlu.training.feed import to_batches
from danlu.training.run import run_training
from danlu.training.sequences import Sequences
from danlu.training.trained import open_run

MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
Date = tuple[int, int, int]
TALK = [
    {"role": "user", "content": "4 march 2021"},
    {"role": "assistant", "content": "04.03.2021"},
    {"role": "user", "content": "5 may 1999"},
    {"role": "assistant", "content": "05.05.1999"},
]


def some_date(generator: random.Random) -> Date:
    return generator.randint(1, 28), generator.randint(1, 12), generator.randint(1990, 2029)


def words(date: Date) -> str:
    return f"{date[0]} {MONTHS[date[1] - 1]} {date[2]}"


def iso(date: Date) -> str:
    return f"{date[2]}-{date[1]:02d}-{date[0]:02d}"


def german(date: Date) -> str:
    return f"{date[0]:02d}.{date[1]:02d}.{date[2]}"


def teach(model: Any, tokenizer: Any, num_steps: int) -> None:
    """Plain torch, plain Transformers: source, target, `labels=`."""
    generator = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(num_steps):
        dates = [some_date(generator) for _ in range(32)]
        batch = tokenizer([words(date) for date in dates], padding=True, return_tensors="pt")
        labels = tokenizer(text_target=[iso(date) for date in dates], padding=True, return_tensors="pt").input_ids
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1.0, (step + 1) / 50) * (1 - step / num_steps)
        model(**batch, labels=labels.masked_fill(labels == tokenizer.pad_token_id, -100)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> Iterator[None]:
    """So small a model gains nothing by a second one, and waits for it where the machine is busy."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # which training leaves as it is
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = t5_tokenizer(MONTHS)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).train()
    teach(model, tokenizer, 400)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("dates")
    generator = random.Random(1)
    dates = list(dict.fromkeys(some_date(generator) for _ in range(1700)))[:1500]
    rows: list[dict[str, Any]] = [{"input_text": words(date), "target_text": german(date)} for date in dates]
    rows += [{"messages": TALK}, {"prompt": "1 may 2001", "completion": "01.05.2001"}, {"text": "1 may 2001"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
model: {{name: {base}, dtype: float32}}
data:
  train: [rows.jsonl]
  evaluation: {{rows: 100}}
  leaks: null
  max_sequence_tokens: 48
adapter: {{type: lora, rank: 32, alpha: 64, target_modules: all-linear}}
training:
  learning_rate: 4.0e-3
  num_epochs: 4
  global_batch_size: 16
  micro_batch_tokens: 512
  evaluation_max_rows: 20
evaluation:
  max_new_tokens: 16
  batch_size: 100
  tasks: [{{type: loss}}, {{type: field, name: date, pattern: '^(.*)$'}}]
run: {{folder: {folder / "run"}}}
"""
    )
    return run_training(load_recipe(recipe), quiet=True)


@pytest.fixture(scope="module")
def run_folder(trained: dict[str, Any]) -> Path:
    return Path(trained["run_folder"])


@pytest.fixture(scope="module")
def exported(run_folder: Path) -> dict[str, Any]:
    return run_export(run_folder)


def test_the_tuned_model_writes_dates_that_it_has_not_seen(trained: dict[str, Any], run_folder: Path) -> None:
    result = run_evaluation(run_folder, quiet=True)
    assert result["rows"] == 100
    assert result["metrics"]["base"]["date"] == 0.0
    assert result["metrics"]["tuned"]["date"] >= 0.95  # 0.99 to 1.0 over several ranks, rates and numbers of rows
    assert result["metrics"]["tuned"]["finished"] == 1.0
    assert result["metrics"]["tuned"]["loss"] < 0.05 < 1.0 < result["metrics"]["base"]["loss"]
    assert trained["evaluation_loss"] == pytest.approx(result["metrics"]["tuned"]["loss"], abs=0.05)
    about = json.loads((run_folder / "manifest.json").read_text())
    assert about["engine"] == "padded rows, plain attention, fused layers, chunked loss" or not THERE


def test_the_ledger_has_the_row_that_is_taken_apart_and_the_one_without_a_question(
    trained: dict[str, Any], run_folder: Path
) -> None:
    rows, splits = trained["rows"], trained["splits"]
    assert (rows["read"], rows["kept"], rows["dropped"], rows["changed"]) == (1503, 1502, 1, 1)
    assert splits["train"]["documents"] + splits["evaluation"]["documents"] == 1503
    reasons = {entry["reason"]: entry for entry in json.loads((run_folder / "ledger.json").read_text())["reasons"]}
    assert reasons.keys() == {
        "several answers",
        "text alone has no question, which an encoder-decoder model needs",
    }
    assert reasons["several answers"]["outcome"] == "changed"
    assert reasons["several answers"]["examples"][0]["reason"].startswith("several answers: 2 documents")


def test_loss_and_gradients_on_real_rows_are_transformers_own(run_folder: Path) -> None:
    run = open_run(run_folder)
    engine = run.engine(torch.float32)
    model, tokenizer = engine.model, engine.tokenizer
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora" in name)
    questions = run.evaluation_rows()[:12]
    documents = [document for messages in questions for document in label(tokenizer, messages)]
    plain, total, weight = Sequences.of(model), 0.0, 0.0
    for batch in to_batches(documents, 128, False, torch.device("cpu"), padded=True):
        loss, batch_weight = plain(model, batch)
        loss.backward()
        total, weight = total + loss.item(), weight + batch_weight
    found = {name: p.grad / weight for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    expected = 0.0
    for messages in questions:
        source = tokenizer("\n".join(message["content"] for message in messages[:-1]), return_tensors="pt")
        labels = tokenizer(text_target=messages[-1]["content"], return_tensors="pt").input_ids
        loss = model(**source, labels=labels).loss * labels.numel() / weight
        loss.backward()
        expected += loss.item()
    assert weight == sum(len(document.ids) - document.spans[0][0] for document in documents)
    assert total / weight == pytest.approx(expected, rel=1e-4)
    own = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    size = torch.stack([gradient.norm() for gradient in own.values()]).norm()
    apart = torch.stack([(found[name] - gradient).norm() for name, gradient in own.items()]).norm()
    assert float(apart) < 1e-4 * float(size)


def test_the_adapter_loads_in_plain_peft_and_gives_the_same_logits(run_folder: Path, base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    assert json.loads((run_folder / "adapter" / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"
    plain = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), run_folder / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    inputs = {**tokenizer("4 march 2021", return_tensors="pt"), "decoder_input_ids": torch.tensor([[0, 5, 6, 7]])}
    with torch.no_grad():
        wanted = plain(**inputs).logits
        with plain.disable_adapter():
            bare = plain(**inputs).logits
        found = open_run(run_folder).engine(torch.float32).model(**inputs).logits
    assert torch.equal(found, wanted)
    assert not torch.allclose(bare, wanted, atol=1e-2), "the adapter does something"


def test_the_merge_is_exact_in_float32(exported: dict[str, Any]) -> None:
    parity = exported["parity"]
    assert parity["passed"]
    assert (parity["prompts"], parity["greedy_equal"], parity["argmax_agreement"]) == (20, 20, 1.0)
    assert 0 < parity["max_logit_difference"] <= 1e-3


def test_one_tensor_of_the_encoder_scaled_by_5_percent_is_caught(
    exported: dict[str, Any], run_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "copy"
    folder.mkdir()
    for path in Path(exported["export_folder"]).iterdir():
        if path.name not in ("manifest.json", "parity.json"):
            (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = "encoder.block.1.layer.0.SelfAttention.v.weight"
    weights[name] = weights[name] * 1.05
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(GateError, match="logits: differ"):
        run_check(run_folder, folder)


def test_the_merged_folder_answers_in_plain_transformers_as_it_was_trained(
    exported: dict[str, Any], run_folder: Path
) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = exported["export_folder"]
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    probes = json.loads((run_folder / "probes" / "probes.json").read_text())["probes"]
    for probe in probes:
        prompt = [{"role": "user", "content": message["content"]} for message in probe["messages"]]
        text = tokenizer.apply_chat_template(prompt, tokenize=False)
        assert text == probe["text"]
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        assert ids.tolist() == [probe["prompt_ids"]]
        out = model.generate(ids, max_new_tokens=16, do_sample=False)
        assert tokenizer.decode(out[0], skip_special_tokens=True) == probe["answers"]["float32"]["text"]


def test_chat_answers_question_after_question(run_folder: Path) -> None:
    command = [sys.executable, "-m", "danlu", "chat", str(run_folder), "--max-new-tokens", "16"]
    lines = "7 july 2007\n/base\n/reset\n8 august 2008\n/quit\n"
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, timeout=300)
    assert "tuned> 07.07.2007" in done.stdout
    assert "tuned> 08.08.2008" in done.stdout
    assert "base> 07.07.2007" not in done.stdout


def test_what_does_not_fit_such_a_model_is_said_before_its_weights_are_loaded(
    base: Path, run_folder: Path, tmp_path: Path
) -> None:
    recipe = run_folder / "recipe.resolved.yaml"
    command = [sys.executable, "-m", "danlu", "train", str(recipe), "adapter.layers_to_transform=[0]"]
    done = subprocess.run(
        [*command, f"run.folder={tmp_path / 'run'}"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2
    assert "encoder and decoder count from 0 each" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
