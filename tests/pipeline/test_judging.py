"""Judging, comparing and generating on tiny runs, through the command line where its status counts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_runs import write_recipe

from danlu.data.prepared import EVALUATION_ROWS
from danlu.engines.interface import Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import FolderError, GateError, Stopped
from danlu.evaluation.compare import run_compare
from danlu.evaluation.journal import JOURNAL
from danlu.evaluation.run import run_evaluation
from danlu.recipe import load_recipe
from danlu.serving.batch import run_generate
from danlu.training.run import run_training

DANLU = [sys.executable, "-m", "danlu"]
NEW = ["Name a colour of the sky.", "Where is the river?", "How do I close my account?", "年费是多少？", "Who is she?"]


def danlu(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DANLU, *words], capture_output=True, text=True, timeout=170)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def two_runs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs of two seeds on one recipe; copy one before it is changed."""
    folder = tmp_path_factory.mktemp("judging")
    recipe = write_recipe(folder, tiny_base)
    words = ["training.max_steps=2", "training.evaluate_every_steps=2"]
    for name, seed in (("a", 0), ("b", 7)):
        own = load_recipe(recipe, [*words, f"run.seed={seed}", f"run.folder={folder / name}"])
        run_training(own, quiet=True)
    return folder / "a", folder / "b"


@pytest.fixture
def run(two_runs: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_runs[0], tmp_path / "run"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Questions on what was not trained on."""
    rows = [{"question": text, "answer": f"It is {text.lower()}", "domain": "ab"[n % 2]} for n, text in enumerate(NEW)]
    return write_lines(tmp_path / "new.jsonl", rows)


def tasks(*sections: dict[str, Any]) -> str:
    return f"evaluation.tasks={json.dumps(sections)}"


class Cut:
    """Ctrl-C once so many batches are answered; without a bound it only counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int = 10_000) -> None:
        self.batches, self.rows, own = 0, 0, TransformersEngine.generate

        def generate(engine: Any, conversations: Any, sampling: Any, tuned: bool = True) -> Any:
            if self.batches == after:
                raise KeyboardInterrupt
            self.batches, self.rows = self.batches + 1, self.rows + len(conversations)
            return own(engine, conversations, sampling, tuned)

        monkeypatch.setattr(TransformersEngine, "generate", generate)


def test_tasks_on_files_a_gate_that_says_no_and_the_report_beside_it(run: Path, file: Path, tmp_path: Path) -> None:
    choices = write_lines(
        tmp_path / "choices.jsonl",
        [{"question": f"Which of the two, {n}?", "choices": ["old", "new"], "answer": "B"} for n in range(4)],
    )
    talks = write_lines(
        tmp_path / "talks.jsonl",
        [{"turns": [{"user": "I am Anna."}, {"user": "Who am I?", "check": {"contains": "Anna"}}]}],
    )
    rules = [{"name": "short", "max_characters": 400}, {"name": "form", "pattern": "^Dear"}]
    asked = tasks(
        {"type": "loss"},
        {"type": "answers", "file": str(file), "metrics": ["bleu", "chrf", "rouge_l", "token_f1", "answer_tokens"]},
        {"type": "token_accuracy", "file": str(file)},
        {"type": "compliance", "file": str(file), "rules": rules},
        {"type": "multiple_choice", "name": "mc", "file": str(choices)},
        {"type": "conversation", "file": str(talks)},
        {"type": "perplexity", "file": str(file), "columns": {"text": "question"}},
    )
    gates = 'evaluation.gates=[{"metric": "compliance", "min": 0.9}, {"metric": "loss", "max": 1000}]'
    done = danlu("evaluate", str(run), asked, gates, "--json")
    assert done.returncode == 1, done.stderr
    assert "gate: compliance: 0 is under 0.9" in done.stderr
    assert "Traceback" not in done.stderr
    folder = run / "report"
    report = json.loads((folder / "report.json").read_text())
    names = ["loss", "bleu", "chrf", "rouge_l", "token_f1", "answer_tokens", "token_accuracy", "compliance",
             "mc.accuracy", "checks_passed", "conversations_passed", "perplexity", "finished"]  # fmt: skip
    assert sorted(report["metrics"]["tuned"]) == sorted(names)
    assert [rule["passed"] for rule in report["gate"]["rules"]] == [False, True]
    assert report["rules"]["tuned"] == {"short": 1.0, "form": 0.0}
    assert {group: one["rows"] for group, one in report["comparison"]["bleu"]["groups"].items()} == {"a": 3, "b": 2}
    assert (folder / "index.html").is_file()
    assert (folder / "index.zh.html").is_file()
    assert not (folder / JOURNAL).exists()


def test_a_gate_that_says_yes_lets_pass_and_its_opposite_does_not(run: Path, file: Path) -> None:
    asked = tasks({"type": "answers", "file": str(file), "metrics": ["answer_tokens"]})
    gate = 'evaluation.gates=[{{"metric": "answer_tokens", "max": {}}}]'
    assert run_evaluation(run, quiet=True, overrides=[asked, gate.format(4)])["gate"]["passed"] is True
    with pytest.raises(GateError):
        run_evaluation(run, quiet=True, overrides=[asked, gate.format(-1)])


def test_a_missing_reference_is_told_by_file_and_line(run: Path, file: Path) -> None:
    write_lines(file, [{"question": "Where?", "answer": "Here."}, {"question": "Who?"}])
    done = danlu("evaluate", str(run), tasks({"type": "answers", "file": str(file), "metrics": ["bleu"]}))
    assert done.returncode == 2
    assert "the reference is missing" in done.stderr
    assert "new.jsonl:2" in done.stderr
    assert not (run / "report").exists()


def test_a_file_that_was_trained_on_is_refused(run: Path, file: Path) -> None:
    held = {row["where"].rpartition(":")[2] for row in read_lines(run / EVALUATION_ROWS)}
    trained = next(n for n in range(40) if str(n + 1) not in held)
    question = f"What is {trained} and {trained % 7}?"
    answer = f"It is {trained + trained % 7}." * (1 + trained % 5)
    write_lines(file, [{"question": "Where?", "answer": "Here."}, {"question": question, "answer": answer}])
    done = danlu("evaluate", str(run), tasks({"type": "rouge_l", "file": str(file)}))
    assert done.returncode == 2
    assert "this evaluation row was trained on" in done.stderr
    assert "new.jsonl:2" in done.stderr
    assert not (run / "report").exists()


def test_a_stopped_evaluation_goes_on_from_its_journal(
    run: Path, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = [tasks({"type": "answers", "file": str(file)}), "evaluation.batch_size=2", "evaluation.max_new_tokens=5"]
    whole = run_evaluation(run, quiet=True, overrides=words, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        Cut(patch, after=4)
        with pytest.raises(Stopped, match=r"answers are kept"):
            run_evaluation(run, quiet=True, overrides=words)
    assert [path.name for path in (run / "report").iterdir()] == [JOURNAL]
    counted = Cut(monkeypatch)
    found = run_evaluation(run, quiet=True, overrides=words)
    assert found["report_folder"] == str(run / "report")
    assert counted.batches == 2, "of six batches for both models, four were answered before"
    assert found["metrics"] == whole["metrics"]
    assert (run / "report/answers.jsonl").read_text() == (tmp_path / "whole/answers.jsonl").read_text()


def test_other_questions_do_not_go_on_from_a_journal(run: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [tasks({"type": "rouge_l", "file": str(file)}), "evaluation.batch_size=2"]
    with monkeypatch.context() as patch:
        Cut(patch, after=3)
        with pytest.raises(Stopped):
            run_evaluation(run, quiet=True, overrides=words)
    counted = Cut(monkeypatch)
    found = run_evaluation(run, quiet=True, overrides=[*words, "evaluation.max_new_tokens=3"])
    assert found["report_folder"] != str(run / "report")
    assert counted.batches == 6


def test_two_runs_on_the_same_rows_are_compared_and_on_others_refused(
    two_runs: tuple[Path, Path], file: Path, tmp_path: Path
) -> None:
    metrics = ["rouge_l", "chrf"]
    on_file = tasks({"type": "answers", "file": str(file), "metrics": metrics})
    first, second = (str(tmp_path / name) for name in ("first", "second"))
    run_evaluation(two_runs[0], quiet=True, overrides=[on_file, "evaluation.max_new_tokens=8"], out=first)
    run_evaluation(two_runs[1], quiet=True, overrides=[on_file, "evaluation.max_new_tokens=8"], out=second)
    found = run_compare([first, second], tmp_path / "both")
    assert found["metrics"] == [*metrics, "finished"]
    compared = found["runs"][1]["comparison"]["rouge_l"]
    assert compared["first"] == found["runs"][0]["metrics"]["rouge_l"]
    assert compared["wins"] + compared["ties"] + compared["losses"] == len(NEW)
    assert json.loads((tmp_path / "both/compare.json").read_text())["runs"] == found["runs"]
    itself = run_compare([first, first], tmp_path / "itself")["runs"][1]
    assert {one["verdict"] for one in itself["comparison"].values()} == {"no difference"}
    assert itself["verdict"].startswith("No difference")
    other = write_lines(tmp_path / "other.jsonl", [{"question": text, "answer": "no"} for text in NEW])
    on_other = tasks({"type": "answers", "file": str(other), "metrics": metrics})
    words = [on_other, "evaluation.max_new_tokens=8"]
    run_evaluation(two_runs[1], quiet=True, overrides=words, out=tmp_path / "third")
    done = danlu("compare", first, str(tmp_path / "third"), "--out", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "was not measured on the same rows: 0 in both, 5 only in the first, 5 only in the second" in done.stderr
    assert not (tmp_path / "none").exists()
    words = [on_file, f"evaluation.compare_with=[{first}]", "evaluation.max_new_tokens=9"]
    with pytest.raises(FolderError, match="two different ways"):
        run_evaluation(two_runs[1], quiet=True, out=tmp_path / "fourth", overrides=words)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generate_that_is_cut_off_goes_on_without_a_row_lost_or_done_twice(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    rows = [{"question": f"{text} ({n})", "id": n} for n in range(3) for text in NEW]
    path = write_lines(tmp_path / "in.jsonl", rows)
    sampling = Sampling(5, temperature, seed=3)
    whole = run_generate(str(run), str(path), tmp_path / "whole.jsonl", sampling, 2, quiet=True)
    assert (whole["rows"], whole["answered"], whole["kept"]) == (15, 15, 0)
    out = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        Cut(patch, after=3)
        with pytest.raises(Stopped):
            run_generate(str(run), str(path), out, sampling, 2, quiet=True)
    out.write_bytes(out.read_bytes()[:-9])  # as a machine that went down in the middle of a line
    counted = Cut(monkeypatch)
    found = run_generate(str(run), str(path), out, sampling, 2, quiet=True)
    assert (found["answered"], found["kept"]) == (10, 5)
    assert counted.rows == 11, "the batch of the row that was cut is asked whole"
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [(one["question"], one["id"]) for one in read_lines(out)] == [(one["question"], one["id"]) for one in rows]
    again = run_generate(str(run), str(path), out, sampling, 2, quiet=True)
    assert (again["answered"], again["kept"]) == (0, 15)


def test_generate_by_the_command_line_killed_and_given_again(run: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    words = ["generate", str(run), "--in", str(file), "--out", str(out), "--max-new-tokens", "100", "--batch-size", "1"]
    job = subprocess.Popen([*DANLU, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (out.exists() and out.stat().st_size) and job.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    before = out.read_bytes()
    assert before
    done = danlu(*words, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kept"] >= 1
    assert told["kept"] + told["answered"] == len(NEW)
    assert out.read_bytes().startswith(before)
    assert [one["question"] for one in read_lines(out)] == NEW
    assert all(one["finish"] in ("stop", "length") and "generated_answer" in one for one in read_lines(out))
    rows = read_lines(file)
    write_lines(file, [*rows[:-1], {**rows[-1], "question": "Another?"}])
    refused = danlu(*words)
    assert refused.returncode == 2
    assert refused.stderr.count("error:") == 1
    assert "the rows have changed since the output was begun" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_generate_with_other_options_or_rows_that_ask_nothing_is_refused(run: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run_generate(str(run), str(file), out, Sampling(2), quiet=True)
    with pytest.raises(FolderError, match="begun with another sampling"):
        run_generate(str(run), str(file), out, Sampling(3), quiet=True)
    write_lines(file, [{"question": "Where?"}, {"answer": "Here."}])
    done = danlu("generate", str(run), "--in", str(file), "--out", str(tmp_path / "other.jsonl"))
    assert done.returncode == 2
    assert "new.jsonl:2" in done.stderr
    assert not (tmp_path / "other.jsonl").exists()
