"""lm-evaluation-harness on our loaded models gives what it gives by itself, and refuses in one message."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.cli import main
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import InputError
from danlu.evaluation.harness import find_tasks, run_harness
from danlu.evaluation.harness_run import harness_lines
from danlu.models.loading import load_base
from danlu.recipe.model_schema import FourBitQuantization

pytest.importorskip("lm_eval", reason="lm-evaluation-harness comes with danlu[harness]")
ROWS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of choices, and one of short answers."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": f"Which of these is colour {n}?", "choices": [" red", " table", " seven"], "answer": n % 3}
        for n in range(ROWS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:",
    }
    choices = {
        "task": "danlu_colours",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    answers = {
        "task": "danlu_answers",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    for name, task in (("colours", choices), ("answers", answers)):
        (folder / f"{name}.yaml").write_text(json.dumps(common | task))
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = add_adapter(AutoModelForCausalLM.from_pretrained(tiny_base), Lora(4, 8.0), ["q_proj", "down_proj"], 0)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


def test_a_run_gets_the_harness_own_numbers_for_base_and_adapter(
    folder: Path, tiny_base: Path, adapter: Path, tokenizer: Any
) -> None:
    from lm_eval.evaluator import simple_evaluate

    ours = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), adapter).eval()
    engine = TransformersEngine(ours, tokenizer, [2])
    before = copy.deepcopy(tokenizer.special_tokens_map)
    tasks = find_tasks([str(folder)])
    found = run_harness({"base": engine.chosen(False), "tuned": engine.chosen(True)}, tokenizer, tasks)
    assert tokenizer.special_tokens_map == before
    assert set(found["tasks"]) == {"danlu_colours", "danlu_answers"}
    differ = 0
    for model, more in (("base", ""), ("tuned", f",peft={adapter}")):
        theirs = simple_evaluate(
            model="hf",
            model_args=f"pretrained={tiny_base}{more}",
            tasks=["danlu_colours"],
            task_manager=tasks.manager,
            device="cpu",
            bootstrap_iters=0,
        )
        ours_of = found["tasks"]["danlu_colours"]["metrics"]["acc"][model]
        assert ours_of["value"] == pytest.approx(theirs["results"]["danlu_colours"]["acc,none"])
        differ += ours_of["value"] > 0
    acc = found["tasks"]["danlu_colours"]["metrics"]["acc"]
    assert differ
    assert acc["base"] != acc["tuned"], "the adapter changes what is chosen"
    assert acc["difference"] == pytest.approx(acc["tuned"]["value"] - acc["base"]["value"])
    assert acc["interval"][0] <= acc["difference"] <= acc["interval"][1]
    assert acc["higher_is_better"] is True
    assert found["tasks"]["danlu_colours"]["rows"] == ROWS
    json.dumps(found)


def test_a_quantised_base_with_an_adapter_is_judged_as_it_is(
    folder: Path, tiny_base: Path, adapter: Path, tokenizer: Any
) -> None:
    pytest.importorskip("bitsandbytes", reason="4 bits need danlu[quantization]")
    base = load_base(tiny_base, torch.float32, quantization=FourBitQuantization(type="nf4"))
    engine = TransformersEngine(PeftModel.from_pretrained(base, adapter).eval(), tokenizer, [2])
    tasks = find_tasks([str(folder / "colours.yaml")])
    found = run_harness({"base": engine.chosen(False), "tuned": engine.chosen(True)}, tokenizer, tasks)
    acc = found["tasks"]["danlu_colours"]["metrics"]["acc"]
    for model in ("base", "tuned"):
        right = 0
        for row in map(json.loads, (folder / "rows.jsonl").read_text().splitlines()):
            text = f"Question: {row['question']}\nAnswer:"
            prompt = tokenizer(text)["input_ids"]
            likely = []
            for choice in row["choices"]:  # the harness puts a blank between the two
                ids = tokenizer(f"{text} {choice}")["input_ids"][len(prompt) :]
                logits = engine.logits(prompt, ids, model == "tuned")
                likely.append(logits.log_softmax(-1)[range(len(ids)), ids].sum().item())
            right += likely.index(max(likely)) == row["answer"]
        assert acc[model]["value"] == pytest.approx(right / ROWS)


def test_a_file_can_be_named_and_a_limit_holds(folder: Path, tiny_base: Path, tokenizer: Any) -> None:
    engine = TransformersEngine(AutoModelForCausalLM.from_pretrained(tiny_base).eval(), tokenizer, [2])
    tasks = find_tasks([str(folder / "answers.yaml")])
    found = run_harness({"model": engine.chosen(True)}, tokenizer, tasks, limit=5, chat_template=True)
    assert list(found["tasks"]) == ["danlu_answers"]
    about = found["tasks"]["danlu_answers"]
    assert find_tasks([str(folder), "danlu_answers"]).names == ["danlu_answers", "danlu_colours"]
    assert (about["rows"], found["limit"], found["chat_template"]) == (5, 5, True)
    assert about["metrics"]["exact_match"]["model"]["value"] == 0.0
    assert "difference" not in about["metrics"]["exact_match"]
    assert harness_lines(found) == ["danlu_answers (5 rows) exact_match: model 0.0000"]


def test_what_can_not_be_run_is_one_clear_message(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no task 'danlu_colour'.*\n(?s:.*)did you mean danlu_colours"):
        find_tasks([str(folder), "danlu_colour"])
    with pytest.raises(InputError, match="no tasks are in this folder"):
        find_tasks([str(tmp_path)])
    task = json.loads((folder / "colours.yaml").read_text())
    task["dataset_kwargs"] = {"data_files": {"test": str(tmp_path / "absent.jsonl")}}
    (tmp_path / "absent.yaml").write_text(json.dumps(task))
    with pytest.raises(InputError, match=r"the data of the task .* can't be reached"):
        find_tasks([str(tmp_path / "absent.yaml")])
    (tmp_path / "broken.yaml").write_text("task: [unclosed")
    with pytest.raises(InputError, match="broken"):
        find_tasks([str(tmp_path / "broken.yaml")])


def test_the_command_judges_a_model_and_writes_figures_and_a_page(
    folder: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    words = ["evaluate", str(tiny_base), "--harness", str(folder / "colours.yaml"), "--out", str(out), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["report_folder"] == str(out)
    written = json.loads((out / "harness.json").read_text())
    assert written["tasks"] == printed["tasks"]
    page = (out / "index.html").read_text()
    assert "danlu_colours" in page
    assert f"{printed['tasks']['danlu_colours']['metrics']['acc']['model']['value']:.4f}" in page
    assert (out / "manifest.json").is_file()


def test_the_command_refuses_before_a_model_is_loaded_and_leaves_nothing(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "no/such/model", "--harness", str(folder / "absent.yaml"), "--json"])
    assert ended.value.code == 2
    assert "no such task file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "no-such-folder/x/y", "--harness", str(folder), "--json"])
    assert ended.value.code == 2
    assert "no model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
