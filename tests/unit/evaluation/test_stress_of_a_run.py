"""The recipe's sections of attacks, general set and latency, and the harness, on a run as `danlu train` leaves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import train, write_recipe

from danlu.cli import main

SECTIONS = {
    "robustness": "{attacks: [typos, homophones, injection], max_rows: 4}",
    "forgetting": "{languages: [en], max_items: 5, max_new_tokens: 4, perplexity: false}",
    "latency": "{prompt_tokens: [64], repeats: 1, new_tokens: 2}",
}


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stressed")
    recipe = write_recipe(folder, tiny_base)
    train(recipe, folder / "run", *(f"evaluation.{name}={value}" for name, value in SECTIONS.items()))
    return folder / "run"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    found = capsys.readouterr()
    assert ended.value.code == 0, found.err
    return dict(json.loads(found.out.splitlines()[-1]))


def test_what_the_recipe_asks_for_is_in_the_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Path(printed(capsys, "evaluate", str(run))["report_folder"])
    found = json.loads((report / "report.json").read_text())
    assert len(found["robustness"]["rows"]) == 4
    assert set(found["robustness"]["models"]["tuned"]["attacks"]) == {"typos", "injection"}
    assert found["robustness"]["left_out"] == {"homophones": "no row is in Chinese"}
    assert len(found["robustness"]["inputs"]["typos"]) == 4
    # The score is ROUGE-L here, so before the attack it is that of the same rows in the report itself.
    by_row = {each["row"]: each["tuned"]["scores"]["rouge_l"] for each in found["examples"]}
    scores = [by_row[row] for row in found["robustness"]["rows"]]
    assert found["robustness"]["models"]["tuned"]["score_before"] == pytest.approx(sum(scores) / 4)
    assert found["forgetting"]["items"] == 5
    assert found["forgetting"]["perplexity"] is None
    assert [each["asked"] for each in found["latency"]["lengths"]] == [64]


def test_the_harness_judges_base_and_tuned_of_a_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness comes with danlu[harness]")
    rows = [{"text": f"What is {n}?", "choices": [" It", " apple"], "answer": n % 2} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "danlu_run_choices",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "task.yaml").write_text(json.dumps(task))
    found = printed(capsys, "evaluate", str(run), "--harness", str(tmp_path / "task.yaml"))
    assert found["report_folder"] == str(run / "harness")
    acc = found["tasks"]["danlu_run_choices"]["metrics"]["acc"]
    assert {"base", "tuned", "difference", "interval"} <= set(acc)
    again = printed(capsys, "evaluate", str(run), "--harness", str(tmp_path / "task.yaml"), "--limit", "2")
    assert again["report_folder"] == str(run / "harness-2"), "nothing is overwritten"
