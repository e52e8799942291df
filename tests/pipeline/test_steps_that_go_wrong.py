"""Rows without a loss, noise, a learning rate far too high: the run says what it was, and ends where it would have."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import NOISE, POISON, plain_rows, poison, write_guarded_recipe, write_learned_base
from small_runs import assert_same, numbers_of

from danlu.audit import audit_path, read_audit, verify
from danlu.errors import Stopped, WorkError
from danlu.recipe import load_recipe
from danlu.training import run as runs
from danlu.training.run import run_training

TESTS = Path(__file__).parents[1]
ROWS = plain_rows(48)
WITHOUT_LOSS = [{"question": f"Which{POISON}?", "answer": f"Go {word} now."} for word in ("up", "down")]
GARBLED = [{"question": "Which way?", "answer": f"{NOISE} {f'xyzzy qwv {n} ' * 12}"} for n in range(3)]


def put_in(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The plain rows, with these among them from line 21 on."""
    return [*ROWS[:20], *rows, *ROWS[20:]]


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learned_base(tiny_base, tmp_path_factory.mktemp("learned"))


@pytest.fixture(scope="module")
def clean(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run that never had a bad row."""
    return train(write_guarded_recipe(tmp_path_factory.mktemp("clean"), base, ROWS))


def train(recipe: Path, *words: str, resume: bool = False) -> dict[str, Any]:
    return run_training(load_recipe(recipe, words), quiet=True, resume=resume)


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def same_bits(found: Path, wanted: Path) -> None:
    (losses, weights), (wanted_losses, wanted_weights) = numbers_of(found), numbers_of(wanted)
    assert losses == wanted_losses
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted_weights.items())


def test_a_healthy_run_is_left_alone(clean: dict[str, Any]) -> None:
    assert clean["guards"]["quarantined_steps"] == 0
    assert clean["guards"]["retreats"] == []
    folder = Path(clean["run_folder"])
    assert not (folder / "quarantine.jsonl").exists()
    assert not (folder / "running.json").exists()
    assert not (folder / "checkpoints").exists(), "the recipe wants none"


def test_rows_without_a_loss_are_named_and_cost_nothing_else(
    base: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, tokenizer)
    recipe = write_guarded_recipe(tmp_path, base, put_in(WITHOUT_LOSS), learning_rate=2e-3)
    result = train(recipe)
    folder = tmp_path / "run"
    bad = {f"{tmp_path}/rows.jsonl:{line}" for line in (21, 22)}
    assert set(result["guards"]["suspects"]) == bad
    entries = lines(folder, "quarantine.jsonl")
    assert len(entries) == 2, "a row that is known is not met again in the second epoch"
    for entry in entries:
        assert entry["reason"] == "the loss is nan"
        assert {row["where"] for row in entry["rows"] if row["loss"] is None} == set(entry["suspects"]) <= bad
        assert len(entry["rows"]) == 4
    faulty = [line["step"] for line in lines(folder, "metrics.jsonl") if line.get("fault")]
    assert faulty == [entry["step"] for entry in entries]
    ledger = json.loads((folder / "ledger.json").read_text())
    assert ledger["guards"] == result["guards"]
    assert ledger["guards"]["quarantined_rows"] == 8
    never = train(write_guarded_recipe(tmp_path / "never", base, ROWS, learning_rate=2e-3))
    assert result["evaluation_loss"] == pytest.approx(never["evaluation_loss"], rel=0.01)
    with pytest.raises(WorkError, match="the loss is nan"):  # so much for a run without guards
        train(recipe, "training.guards=null", f"run.folder={tmp_path / 'unguarded'}")


def test_garbled_rows_are_named_and_do_no_harm(base: Path, clean: dict[str, Any], tmp_path: Path) -> None:
    recipe = write_guarded_recipe(tmp_path, base, put_in(GARBLED))
    result = train(recipe)
    assert {Path(where).name for where in result["guards"]["suspects"]} == {
        f"rows.jsonl:{line}" for line in (21, 22, 23)
    }
    assert "is usual" in lines(tmp_path / "run", "quarantine.jsonl")[0]["reason"]
    assert result["evaluation_loss"] == pytest.approx(clean["evaluation_loss"], rel=0.01)
    harmed = train(recipe, "training.guards=null", f"run.folder={tmp_path / 'unguarded'}")
    assert harmed["evaluation_loss"] > 1.015 * clean["evaluation_loss"]


RATE, FACTOR = 0.3, 0.02
EXPLODING = [f"training.learning_rate={RATE}", "training.schedule={type: constant}"]
SLOWER = [*EXPLODING, f"training.guards={{learning_rate_factor: {FACTOR}}}"]


def test_an_exploding_rate_goes_back_and_is_then_the_run_with_the_smaller_rate(base: Path, tmp_path: Path) -> None:
    recipe = write_guarded_recipe(tmp_path, base, ROWS)
    result = train(recipe, *SLOWER)
    (retreat,) = result["guards"]["retreats"]
    assert retreat["to_step"] == 0
    assert result["guards"]["learning_rate_factor"] == FACTOR
    assert result["guards"]["quarantined_steps"] == 0, "no row is to blame"
    words = [f"training.learning_rate={RATE * FACTOR!r}", EXPLODING[1], f"run.folder={tmp_path / 'slow'}"]
    slow = train(recipe, *words)
    same_bits(tmp_path / "run", tmp_path / "slow")
    assert result["evaluation_loss"] == slow["evaluation_loss"]


def test_a_rate_that_is_hopeless_ends_with_one_message(base: Path, tmp_path: Path) -> None:
    recipe = write_guarded_recipe(tmp_path, base, ROWS)
    with pytest.raises(WorkError) as caught:
        train(recipe, *EXPLODING, "training.guards={max_retries: 1, learning_rate_factor: null}")
    (fault,) = caught.value.faults
    assert "3 steps in a row went wrong" in fault.what
    assert "although the run went back once" in fault.what
    assert fault.where.endswith("quarantine.jsonl")
    assert "lower training.learning_rate" in fault.hint
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert len(lines(tmp_path / "run", "quarantine.jsonl")) >= 3


class Killed(BaseException):
    """Ends a run where it stands."""


def cut_off(monkeypatch: pytest.MonkeyPatch, call: int, by_stop: bool) -> list[int]:
    """Ends a run after so many steps: asked to stop, or at once and without a checkpoint; counts the steps."""
    made: list[int] = []

    def asked(session: Any, request: Any) -> bool:
        made.append(1)
        if len(made) == call and not by_stop:
            raise Killed
        return len(made) == call

    monkeypatch.setattr(runs, "_asked_to_stop", asked)
    return made


@pytest.mark.parametrize("by_stop", [True, False], ids=["stopped", "killed"])
@pytest.mark.parametrize("what", ["rows", "rate"])
def test_a_run_that_is_resumed_decides_as_one_that_never_stopped(
    what: str, by_stop: bool, base: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, tokenizer)
    recipe = write_guarded_recipe(tmp_path, base, put_in(WITHOUT_LOSS))
    words = ["adapter.dropout=0.1", "training.num_epochs=1", "training.checkpoints={every_steps: 4, keep_last: 1}"]
    words += SLOWER if what == "rate" else []
    with monkeypatch.context() as patch:
        made = cut_off(patch, -1, by_stop)
        whole = train(recipe, *words, f"run.folder={tmp_path / 'whole'}")
    wanted = lines(tmp_path / "whole", "quarantine.jsonl")
    assert len(wanted) == 2
    assert len(whole["guards"]["retreats"]) == (what == "rate")
    for call in range(1, len(made), 2):
        folder = tmp_path / f"cut-{call}"
        with monkeypatch.context() as patch:
            cut_off(patch, call, by_stop)
            with pytest.raises((Stopped, Killed)):
                train(recipe, *words, f"run.folder={folder}")
        result = train(recipe, *words, f"run.folder={folder}", resume=True)
        same_bits(folder, tmp_path / "whole")
        assert lines(folder, "quarantine.jsonl") == wanted
        assert result["guards"] == whole["guards"]


BACKENDS = {
    "ddp": "{type: ddp}",
    "fsdp2": "{type: fsdp2}",
    "zero2": "{type: deepspeed, stage: 2}",
    "zero3": "{type: deepspeed, stage: 3}",
}
ABSENT = importlib.util.find_spec("deepspeed") is None and "DANLU_REQUIRE_PROGRAMS" not in os.environ


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=pytest.mark.skipif(ABSENT and "zero" in name, reason="no DeepSpeed"))
        for name in BACKENDS
    ],
)
def test_several_processes_decide_alike(
    backend: str, base: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, tokenizer)
    recipe = write_guarded_recipe(tmp_path, base, put_in([*WITHOUT_LOSS, *GARBLED]), num_epochs=1)
    alone = train(recipe, f"run.folder={tmp_path / 'alone'}")
    steps = [entry["step"] for entry in lines(tmp_path / "alone", "quarantine.jsonl")]
    assert {3, 4, 5} <= set(steps), "three in a row"
    assert alone["guards"]["retreats"] == [], "the other rows of these steps are as usual"
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *meeting]
    words = [f"training.backend={BACKENDS[backend]}", f"run.folder={tmp_path / 'several'}", "--json"]
    done = subprocess.run(
        [*launch, str(TESTS / "planted_train.py"), "train", "--no-preflight", str(recipe), *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["guards"]["suspects"] == alone["guards"]["suspects"]
    assert result["guards"]["quarantined_steps"] >= 4
    assert_same(tmp_path / "several", tmp_path / "alone")


def audited(folder: Path) -> list[dict[str, Any]]:
    """What the audit log says of a run."""
    return [entry for entry in read_audit(audit_path()).entries if entry.get("run_folder") == str(folder)]


def test_each_run_is_in_the_audit_log_with_what_it_came_from_and_to(clean: dict[str, Any]) -> None:
    folder = Path(clean["run_folder"])
    begun, ended = audited(folder)
    assert (begun["kind"], ended["kind"], ended["outcome"]) == ("training started", "training ended", "done")
    assert ended["start"] == begun["hash"]
    assert begun["user"]
    assert begun["recipe_sha256"] == hashlib.sha256((folder / "recipe.resolved.yaml").read_bytes()).hexdigest()
    for name, digest in begun["data_sha256"].items():
        assert digest == hashlib.sha256((Path(clean["prepared_folder"]) / name).read_bytes()).hexdigest()
    assert {"documents.arrow", "train.arrow", "evaluation.arrow"} <= begun["data_sha256"].keys()
    assert begun["base_sha256"] == json.loads((folder / "manifest.json").read_text())["base_sha256"]
    (weights,) = ended["trained_sha256"].items()
    assert weights[1] == hashlib.sha256((folder / weights[0]).read_bytes()).hexdigest()
    assert verify()["path"] == str(audit_path())


def test_a_run_that_stops_or_fails_says_so_there_and_no_text_of_a_row(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_guarded_recipe(tmp_path, base, ROWS)
    with monkeypatch.context() as patch:
        cut_off(patch, 2, by_stop=True)
        with pytest.raises(Stopped):
            train(recipe)
    train(recipe, resume=True)
    found = audited(tmp_path / "run")
    assert [entry.get("outcome") for entry in found] == [None, "stopped", None, "done"]
    assert found[2]["after_step"] == 2
    with pytest.raises(WorkError):
        train(recipe, *EXPLODING, "training.guards={max_retries: 0}", f"run.folder={tmp_path / 'failed'}")
    *_, ended = audited(tmp_path / "failed")
    assert ended["outcome"] == "failed"
    assert ended["why"].startswith("WorkError: 3 steps in a row went wrong")
    assert "Which way" not in audit_path().read_text()


def test_a_log_that_can_not_be_written_stops_no_run_and_is_said(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DANLU_AUDIT", str(tmp_path / "file" / "audit.jsonl"))
    train(write_guarded_recipe(tmp_path, base, ROWS), "training.max_steps=2")
    assert capsys.readouterr().err.count("the audit log can't be written, and this is not in it: training") == 2


def test_a_run_with_too_many_bad_steps_ends_and_goes_on_when_more_are_allowed(
    base: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, tokenizer)
    recipe = write_guarded_recipe(tmp_path, base, put_in(WITHOUT_LOSS))
    whole = train(recipe, f"run.folder={tmp_path / 'whole'}")
    with pytest.raises(WorkError, match=r"2 steps went wrong[\s\S]*allowed: at most 1[\s\S]*go on with --resume"):
        train(recipe, "training.guards={max_quarantined_steps: 1}")
    result = train(recipe, "training.guards={max_quarantined_steps: 2}", resume=True)
    assert result["guards"] == whole["guards"]
    same_bits(tmp_path / "run", tmp_path / "whole")
