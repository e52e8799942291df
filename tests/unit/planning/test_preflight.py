"""Faults planted one at a time: each is found under its code, and a good recipe has none."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from danlu.errors import InputError
from danlu.planning.checks import machine
from danlu.planning.findings import Finding, PreflightError
from danlu.planning.preflight import CHECKS, preflight, require_flightworthy
from danlu.recipe import load_recipe

NUM_ROWS = 2400
WORDS = (
    "river",
    "stone",
    "apple",
    "cloud",
    "engine",
    "window",
    "garden",
    "letter",
    "winter",
    "copper",
    "paper",
    "ship",
)


def row(number: int) -> dict[str, str]:
    words = [WORDS[number // 12**place % 12] for place in range(4)]
    return {
        "question": f"Case {number}: which {words[0]} goes with the {words[1]} {number * 7}?",
        "answer": f"The {words[2]} {number * 3} goes with {words[3]} number {number}.",
    }


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer that reads 192 tokens, wide enough for a rank of 256."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base")
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=320,
        intermediate_size=320,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(model_folder / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def recipe(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that nothing is wrong with."""
    folder = tmp_path_factory.mktemp("good")
    write_rows(folder / "rows.jsonl", [row(number) for number in range(NUM_ROWS)])
    values = {
        "model": {"name": str(base)},
        "data": {
            "train": [str(folder / "rows.jsonl")],
            "evaluation": {"rows": 60},
            "leaks": None,
            "max_sequence_tokens": 160,
            "num_workers": 1,
        },
        "adapter": {"type": "lora", "target_modules": ["q_proj", "v_proj", "down_proj"]},
        "training": {"global_batch_size": 8},
        "evaluation": {
            "max_new_tokens": 64,
            "tasks": [
                {"type": "compliance", "rules": [{"name": "ends well", "pattern": r"\.\Z"}]},
                {"type": "field", "name": "number", "pattern": r"number (\d+)"},
            ],
        },
        "run": {"folder": str(folder / "run")},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values))
    return path


def found(recipe: Path, *words: str) -> dict[str, Finding]:
    return {finding.code: finding for finding in preflight(load_recipe(recipe, words))}


def assert_found(findings: dict[str, Finding], code: str, level: str, *others: str) -> None:
    assert code in findings, list(findings)
    finding = findings[code]
    assert finding.level == level
    assert finding.what
    assert finding.hint
    unasked = {other.code for other in findings.values() if other.level != "note"} - {code, *others}
    assert not unasked, "one fault was planted"


def test_a_good_recipe_has_no_finding_but_what_its_template_adds(recipe: Path) -> None:
    assert set(found(recipe)) == {"template-adds-system"}


RECIPE_FAULTS = [
    ("rank-too-high", "warning", ["adapter.rank=256"], ["odd-scale"]),
    ("few-targets", "warning", ["adapter.target_modules=[q_proj, v_proj]"], []),
    ("odd-scale", "warning", ["adapter.alpha=512"], []),
    ("dropout-too-high", "warning", ["adapter.dropout=0.5"], []),
    ("rate-too-high", "warning", ["training.learning_rate=0.02"], []),
    ("rate-too-high", "warning", ["adapter=null", "training.learning_rate=2e-4"], []),
    ("rate-too-low", "warning", ["training.learning_rate=2e-6"], []),
    ("rate-too-low", "warning", ["adapter={type: ia3}", "training.learning_rate=5e-5"], []),
    ("loraplus-rate", "warning", ["training.loraplus_lr_ratio=1000"], []),
    ("regularised-too-much", "warning", ["training.label_smoothing=0.5"], []),
    ("regularised-too-much", "warning", ["training.neftune_noise_alpha=100"], []),
    ("regularised-too-much", "warning", ["training.weight_decay=1.0"], []),
    ("no-clipping", "warning", ["training.max_gradient_norm=null"], []),
    ("too-many-epochs", "warning", ["training.num_epochs=100"], []),
    ("few-steps", "warning", ["training.max_steps=3"], []),
    ("rows-unseen", "note", ["training.max_steps=20"], []),
    ("batch-too-large", "warning", ["training.global_batch_size=4096"], ["few-steps"]),
    ("long-warmup", "warning", ["training.schedule={type: constant, warmup_share: 0.9}"], []),
    ("floor-above-peak", "error", ["training.schedule={type: three_phase, floor_learning_rate: 1e-3}"], []),
    ("nothing-held-out", "warning", ["data.evaluation=null"], []),
    ("few-held-out", "warning", ["data.evaluation.rows=3"], []),
    ("most-held-out", "warning", ["data.evaluation.rows=1500"], []),
    ("no-checkpoint", "warning", ["training.checkpoints={every_steps: 5000}"], []),
    ("no-evaluation-between", "warning", ["training.evaluate_every_steps=5000"], []),
    ("rows-cut", "warning", ["data.max_sequence_tokens=67", "data.too_long=cut_answer"], []),
    ("rows-dropped", "warning", ["data.max_sequence_tokens=67", "data.max_dropped_share=0.49"], []),
    ("losses-allowed", "warning", ["data.max_dropped_share=0.9"], []),
    ("context-exceeded", "warning", ["data.max_sequence_tokens=4096"], []),
    ("answers-cut-in-evaluation", "warning", ["evaluation.max_new_tokens=4"], []),
    ("references-fail", "warning", [r"evaluation.tasks=[{type: field, name: code, pattern: 'LB-(\d)'}]"], []),
    ("shape", "error", ["adapter.target_modules=[query]"], []),
    ("shape", "error", ["adapter.rank=400"], []),
    ("model", "error", ["model.name=/nowhere/model"], []),
    ("data", "error", ["data.train=[none.jsonl]"], []),
    ("data", "error", ["data.max_sequence_tokens=16"], []),
]


@pytest.mark.parametrize(
    ("code", "level", "words", "others"),
    RECIPE_FAULTS,
    ids=[f"{code}: {words[-1]}" for code, _, words, _ in RECIPE_FAULTS],
)
def test_a_fault_in_a_recipe_is_found(recipe: Path, code: str, level: str, words: list[str], others: list[str]) -> None:
    assert_found(found(recipe, *words), code, level, *others)


def test_a_learning_rate_of_lora_in_full_fine_tuning_is_called_so(recipe: Path) -> None:
    assert "LoRA's" in found(recipe, "adapter=null", "training.learning_rate=2e-4")["rate-too-high"].what


def same_answer(number: int) -> dict[str, str]:
    return {**row(number), "answer": "I do not know, number 5."}


def long_prompt(number: int) -> dict[str, str]:
    return {"question": row(number)["question"] + " The river runs by the bridge." * 17, "answer": str(number % 9)}


def chinese(number: int) -> dict[str, str]:
    return {
        "question": f"第{number}个问题：请问银行卡丢失以后应该怎么办理挂失手续？",
        "answer": f"您好，请拨打客服电话办理{number}号。",
    }


# What is written in place of the rows, with the code that it is to be found by.
ROW_FAULTS: list[tuple[str, str, Callable[[], list[Any]], list[str]]] = [
    ("few-rows", "warning", lambda: [row(n) for n in range(80)], ["few-steps"]),
    ("few-rows", "note", lambda: [row(n) for n in range(400)], []),
    ("one-answer", "warning", lambda: [same_answer(n) for n in range(NUM_ROWS)], []),
    ("little-trained", "warning", lambda: [long_prompt(n) for n in range(NUM_ROWS)], []),
    ("rows-repeated", "warning", lambda: [row(n % 2000) for n in range(NUM_ROWS)], []),
    ("foreign-language", "warning", lambda: [chinese(n) for n in range(NUM_ROWS)], []),
    ("rows-dropped", "warning", lambda: [row(n) if n % 30 else {"question": "q"} for n in range(NUM_ROWS)], []),
]


@pytest.mark.parametrize(
    ("code", "level", "rows", "others"), ROW_FAULTS, ids=[f"{code}, {level}" for code, level, _, _ in ROW_FAULTS]
)
def test_a_fault_in_the_rows_is_found(
    recipe: Path, tmp_path: Path, code: str, level: str, rows: Callable[[], list[Any]], others: list[str]
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows())
    words = [f"data.train=[{path}]", "evaluation=null", "data.evaluation.rows=20", "data.max_sequence_tokens=190"]
    findings = found(recipe, *words)
    assert_found(findings, code, level, *others)


def copy_of(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    return folder


def test_a_template_that_writes_the_date_is_found(recipe: Path, base: Path, tmp_path: Path) -> None:
    other = copy_of(base, tmp_path / "base")
    template = other / "chat_template.jinja"
    template.write_text("{% set today = strftime_now('%d %b %Y') %}" + template.read_text())
    assert_found(found(recipe, f"model.name={other}"), "dated-template", "warning")


def test_a_template_whose_prompt_is_another_than_the_trained_one_is_found(
    recipe: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from danlu.planning.checks import tokens

    # Every template that the data stage labels by is right: so the rows are taken, and another is asked with.
    sent = tokens._sent
    monkeypatch.setattr(tokens, "_sent", lambda tokenizer, messages: [*sent(tokenizer, messages), 198])
    assert_found(found(recipe), "prompt-differs", "error")


def test_answers_without_an_end_token_are_found(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.planning import look

    monkeypatch.setattr(look, "stop_ids", lambda *_: [7])
    assert_found(found(recipe), "end-not-trained", "error")


def test_labels_that_are_not_the_answer_are_found(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.data.template import Document
    from danlu.planning.look import Look

    def shifted(documents: list[Document]) -> list[Document]:
        return [Document(one.ids, tuple((start - 6, end) for start, end in one.spans)) for one in documents]

    whole, held = Look.documents.func, Look.held_documents.func  # type: ignore[attr-defined]
    monkeypatch.setattr(Look, "documents", property(lambda self: shifted(whole(self))))
    monkeypatch.setattr(Look, "held_documents", property(lambda self: shifted(held(self))))
    assert_found(found(recipe), "labels-differ", "error")


def test_rows_without_a_trained_token_are_found(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.data.template import Document
    from danlu.planning.look import Look

    whole = Look.documents.func  # type: ignore[attr-defined]

    def emptied(self: Look) -> list[Document]:
        first, *rest = whole(self)
        return [Document(first.ids, ()), *rest]

    monkeypatch.setattr(Look, "documents", property(emptied))
    findings = found(recipe)
    assert_found(findings, "nothing-trained", "error")
    assert "row" in findings["nothing-trained"].where


def test_held_out_rows_that_are_trained_on_are_found(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.planning.look import Look

    whole = Look.held_documents.func  # type: ignore[attr-defined]
    monkeypatch.setattr(Look, "held_documents", property(lambda self: [self.documents[0], *whole(self)]))
    assert_found(found(recipe), "held-out-trained", "error")


def test_a_vocabulary_that_is_too_small_is_found(recipe: Path, base: Path, tmp_path: Path) -> None:
    other = copy_of(base, tmp_path / "base")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 20000}))
    assert_found(found(recipe, f"model.name={other}"), "vocabulary-too-small", "error")


def test_rows_longer_than_the_model_reads_are_found(recipe: Path, base: Path, tmp_path: Path) -> None:
    other = copy_of(base, tmp_path / "base")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40}))
    assert_found(found(recipe, f"model.name={other}"), "longer-than-context", "error")


def test_a_stop_token_that_generation_does_not_know_is_found(recipe: Path, base: Path, tmp_path: Path) -> None:
    other = copy_of(base, tmp_path / "base")
    (other / "generation_config.json").write_text('{"eos_token_id": 0}')
    template = other / "tokenizer_config.json"
    values = json.loads(template.read_text())
    template.write_text(json.dumps({**values, "eos_token": "<|endoftext|>"}))
    assert_found(found(recipe, f"model.name={other}"), "stop-not-configured", "note")


def test_a_base_without_a_chat_template_is_found(recipe: Path, base: Path, tmp_path: Path) -> None:
    other = copy_of(base, tmp_path / "base")
    (other / "chat_template.jinja").unlink()
    findings = found(recipe, f"model.name={other}")
    assert findings["tokenizer"].level == "error"
    assert "chat template" in findings["tokenizer"].what


def test_too_little_memory_disk_or_time_is_found(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.planning import devices

    monkeypatch.setattr(devices, "free_memory_bytes", lambda: 200 << 20)
    findings = found(recipe)
    assert_found(findings, "out-of-memory", "error")
    assert "GB are free" in findings["out-of-memory"].what
    assert "out-of-memory" not in found(recipe, "training.max_memory=100MB"), "training keeps to that itself"


def test_a_full_disk_is_found(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(recipe.parent)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    findings = {one.code: one for one in machine.resources(look_of(recipe))}
    assert findings["disk-full"].level == "error"


def look_of(recipe: Path) -> Any:
    from danlu.planning.preflight import _look

    look, faults = _look(load_recipe(recipe))
    assert not faults
    return look


def test_all_errors_are_told_at_once(recipe: Path) -> None:
    words = ["training.schedule={type: three_phase, floor_learning_rate: 1e-3}", "adapter.rank=256"]
    with pytest.raises(PreflightError) as caught:
        require_flightworthy(preflight(load_recipe(recipe, words)))
    (fault,) = caught.value.faults
    assert "floor" in fault.what
    codes = {one["code"] for one in caught.value.to_json()["findings"]}
    assert {"floor-above-peak", "rank-too-high"} <= codes
    assert isinstance(caught.value, InputError)
    assert caught.value.exit_status == 2


def test_each_adapter_of_a_recipe_is_checked_and_a_finding_of_all_told_once(recipe: Path) -> None:
    findings = preflight(load_recipe(recipe, ["adapters={a: {adapter.rank: 256}, b: {adapter.rank: 8}}"]))
    codes = [finding.code for finding in findings]
    assert codes.count("rank-too-high") == 1
    assert codes.count("template-adds-system") == 1


def test_files_of_evaluation_tasks_are_read_before_training(recipe: Path, tmp_path: Path) -> None:
    from danlu.evaluation.run import require_task_files

    good = write_rows(tmp_path / "good.jsonl", [{"question": "Which?", "choices": ["a", "b"], "answer": "a"}])
    broken = write_rows(tmp_path / "broken.jsonl", [{"question": "Which?", "choices": ["a", "b"], "answer": "c"}])
    unanswered = write_rows(tmp_path / "unanswered.jsonl", [row(1), {"question": "Why?"}])
    files = {"multiple_choice": (good, broken), "rouge_l": (unanswered,), "loss": (tmp_path / "gone.jsonl",)}
    named = [(kind, path) for kind, paths in files.items() for path in paths]
    tasks = [{"type": kind, "file": str(path), "name": f"t{place}"} for place, (kind, path) in enumerate(named)]
    findings = preflight(load_recipe(recipe, [f"evaluation.tasks={json.dumps(tasks)}"]), require_task_files)
    errors = [finding for finding in findings if finding.level == "error"]
    assert {finding.code for finding in errors} == {"evaluation"}
    assert [finding.what.split(":")[0] for finding in errors] == [
        "the answer is none of the options",
        "the reference is missing",
        "no such data file",
    ]
    assert [finding.where for finding in errors[:2]] == [f"{broken}:1", f"{unanswered}:2"]
    assert "gone.jsonl" in errors[2].where
    assert all(finding.hint for finding in errors)


def test_no_weight_is_read(recipe: Path, base: Path, tmp_path: Path) -> None:
    other = copy_of(base, tmp_path / "base")
    weights = other / "model.safetensors"
    data = bytearray(weights.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    data[header:] = b"\xff" * (len(data) - header)  # every number is NaN
    weights.write_bytes(bytes(data))
    assert set(found(recipe, f"model.name={other}")) == {"template-adds-system"}


def test_every_check_says_what_it_is_for() -> None:
    assert all(check.__doc__ for check in CHECKS)
    assert len(CHECKS) == len(set(CHECKS))


def test_rows_that_are_prepared_are_checked_in_seconds(recipe: Path) -> None:
    preflight(load_recipe(recipe))
    begun = time.process_time()
    preflight(load_recipe(recipe))
    assert time.process_time() - begun < 20
