"""A run that is killed without warning and goes on ends with the bits of one that ran through; broken, it does not.

`make soak` kills it 50 times and keeps a log; the tests do so 5 times.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

import broken_training
import pytest
from small_runs import write_recipe

from danlu.cli import main
from danlu.errors import RecipeError
from danlu.workflows import verify_resume
from danlu.workflows.kills import Moment, Train, run_killed, run_whole, train
from danlu.workflows.verify_resume import differences, run_verify_resume

KILLS = int(os.environ.get("DANLU_SOAK_KILLS", "5"))
LOG = os.environ.get("DANLU_SOAK_LOG")
# Rows are packed, a step is several micro-batches, an epoch is 4 steps in a new order, evaluations lie within them.
ALL_AT_ONCE = [
    "training.num_epochs=4",
    "training.max_steps=null",
    "training.micro_batch_tokens=96",
    "adapter={type: lora, rank: 4, dropout: 0.2}",
    "training.neftune_noise_alpha=5",
    "training.learning_rate=1e-2",
    "training.early_stopping={patience: 9}",
    "training.save=best",
]


@pytest.fixture(scope="module")
def recipe(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("kills"), tiny_base)


def test_after_each_kill_the_resumed_run_has_the_same_bits(recipe: Path, tmp_path: Path) -> None:
    log = Path(LOG) if LOG else tmp_path / "kills.jsonl"
    words = [*ALL_AT_ONCE, f"run.folder={tmp_path / 'run'}"]
    result = run_verify_resume(str(recipe), words, KILLS, steps=14, log=log, quiet=LOG is None)
    assert (result["identical"], result["identical_kills"], result["steps"]) == (True, KILLS, 14)
    assert result["kills_while_writing"] >= KILLS // 5
    lines = [json.loads(line) for line in log.read_text().splitlines()][-KILLS:]
    assert any(line["went_on"].startswith("goes on after step") for line in lines)
    assert list(tmp_path.glob("run-verify-resume*")) == [], "nothing is left behind"


@pytest.fixture(scope="module")
def words(recipe: Path) -> list[str]:
    checkpoints = "training.checkpoints={every_steps: 2, keep_last: 3}"
    return [*ALL_AT_ONCE, "training.max_steps=7", "evaluation.max_new_tokens=1", checkpoints]


def train_whole_and_killed(recipe: Path, words: list[str], folder: Path, target: Train) -> Path:
    """A folder with a `whole` run and one that was `killed` after its sixth step, both trained by `target`."""
    log = folder / "log.txt"
    run_whole(str(recipe), [*words, f"run.folder={folder / 'whole'}"], log, target=target)
    here = [*words, f"run.folder={folder / 'killed'}"]
    assert run_killed(str(recipe), here, folder / "killed", Moment(6, False, 0.0), log, target)
    return folder


@pytest.fixture(scope="module")
def whole_and_killed(recipe: Path, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_whole_and_killed(recipe, words, tmp_path_factory.mktemp("killed"), train)


def differences_once_resumed(recipe: Path, words: list[str], runs: Path, folder: Path, target: Train) -> list[str]:
    """In what the killed run, resumed by `target`, differs from the whole one."""
    shutil.copytree(runs / "killed", folder / "run")
    run_whole(str(recipe), [*words, f"run.folder={folder / 'run'}"], folder / "log.txt", resume=True, target=target)
    assert "goes on after step" in (folder / "log.txt").read_text()
    return differences(folder / "run", runs / "whole")


@pytest.mark.parametrize("withheld", ["position", "moments"])
def test_with_one_part_of_a_checkpoint_withheld_the_bits_differ(
    withheld: str, recipe: Path, words: list[str], whole_and_killed: Path, tmp_path: Path
) -> None:
    target = getattr(broken_training, f"without_{withheld}")
    assert differences_once_resumed(recipe, words, whole_and_killed, tmp_path, target)


def test_without_a_seed_for_each_step_the_bits_differ(recipe: Path, words: list[str], tmp_path: Path) -> None:
    target = broken_training.without_seeding
    runs = train_whole_and_killed(recipe, words, tmp_path, target)
    assert differences_once_resumed(recipe, words, runs, tmp_path, target)


def test_with_nothing_withheld_they_do_not(
    recipe: Path, words: list[str], whole_and_killed: Path, tmp_path: Path
) -> None:
    assert differences_once_resumed(recipe, words, whole_and_killed, tmp_path, train) == []


def test_the_command_says_what_differs_and_ends_with_status_1(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, broken = functools.partial(run_verify_resume, target=broken_training.without_position), tmp_path / "run"
    monkeypatch.setattr(verify_resume, "run_verify_resume", run)
    monkeypatch.setattr(verify_resume, "draw", lambda *_: Moment(5, False, 0.0))
    words = ["verify-resume", str(recipe), "--kills", "1", "--steps", "7", f"run.folder={broken}", "--json"]
    with pytest.raises(SystemExit) as ended:
        main([*words, *ALL_AT_ONCE])
    said = capsys.readouterr()
    told = json.loads(said.out.splitlines()[-1])
    assert (ended.value.code, told["exit_status"], told["identical"], told["kills"]) == (1, 1, False, 1)
    assert told["differences"]
    assert "0.000 s after step 5 and resumed, it is another run: " in said.err
    assert (tmp_path / "run-verify-resume" / "whole" / "manifest.json").is_file()
    assert (tmp_path / "run-verify-resume" / "kill-1" / "manifest.json").is_file()


def test_wrong_input_is_refused_as_training_refuses_it(recipe: Path, tmp_path: Path) -> None:
    words = [f"run.folder={tmp_path / 'run'}"]
    with pytest.raises(RecipeError, match="this recipe has several adapters"):
        run_verify_resume(str(recipe), [*words, "adapters={a: {adapter.rank: 2}, b: {adapter.rank: 4}}"], quiet=True)
    assert list(tmp_path.iterdir()) == []
