"""A sweep: trials that are runs like any other, over one base, broken off and gone on with, side by side on a page."""

from __future__ import annotations

import html
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import write_recipe

from danlu.engines.interface import Sampling
from danlu.errors import Fault, FolderError, InputError, RecipeError, Stopped, WorkError
from danlu.recipe import load_recipe
from danlu.recipe.sweep import load_sweep
from danlu.training import session, shared_base
from danlu.training.run import run_training
from danlu.training.trained import open_run
from danlu.workflows import sweep as sweeps
from danlu.workflows.sweep import run_sweep

SPACE = {"training.learning_rate": [1e-4, 5e-3], "adapter.target_modules": ["all-linear", ["q_proj", "v_proj"]]}


@pytest.fixture(scope="module")
def folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and a sweep of four trials over it."""
    place = tmp_path_factory.mktemp("sweep")
    write_recipe(place, tiny_base)
    (place / "grid.yaml").write_text(json.dumps({"recipe": "recipe.yaml", "space": SPACE}))
    (place / "two.yaml").write_text(json.dumps({"recipe": "recipe.yaml", "space": {"adapter.rank": [4, 8]}}))
    return place


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The sweep of four trials, unbroken."""
    place = tmp_path_factory.mktemp("whole") / "sweep"
    return run_sweep(load_sweep(folder / "grid.yaml", [f"sweep.folder={place}"]), quiet=True)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for each time that weights are loaded."""
    found: list[Any] = []

    def load_base(*positional: Any, **named: Any) -> Any:
        found.append(positional)
        return real(*positional, **named)

    real = shared_base.load_base
    monkeypatch.setattr(shared_base, "load_base", load_base)
    monkeypatch.setattr(session, "load_base", load_base)
    return found


def bits(run: str | Path) -> dict[str, Any]:
    """What was trained, and every number of every step."""
    path = next(path for name in ("adapter", "model") for path in (Path(run) / name).glob("*.safetensors"))
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    weights = {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in load_file(path).items()}
    return {"metrics": [{key: v for key, v in line.items() if key != "seconds"} for line in lines], "weights": weights}


def test_each_trial_has_the_bits_of_a_run_of_its_own_and_the_base_is_loaded_once(
    folder: Path, tmp_path: Path, loads: list[Any]
) -> None:
    result = run_sweep(load_sweep(folder / "two.yaml", [f"sweep.folder={tmp_path / 'sweep'}"]), quiet=True)
    assert len(loads) == 1
    assert [trial["parameters"] for trial in result["trials"]] == [{"adapter.rank": 4}, {"adapter.rank": 8}]
    for trial in result["trials"]:
        words = [f"adapter.rank={trial['parameters']['adapter.rank']}", f"run.folder={tmp_path / trial['name']}"]
        run_training(load_recipe(folder / "recipe.yaml", words), quiet=True)
        assert bits(trial["run_folder"]) == bits(tmp_path / trial["name"])


def test_the_best_is_the_complete_one_with_the_least_loss(whole: dict[str, Any]) -> None:
    losses = {trial["name"]: trial["evaluation_loss"] for trial in whole["trials"]}
    assert len(set(losses.values())) == 4
    assert whole["best"]["name"] == min(losses, key=losses.__getitem__)
    assert {"sweep_folder", "trials", "best", "page"} <= whole.keys()
    json.dumps(whole)
    for trial in whole["trials"]:
        assert trial["evaluation_loss"] == json.loads(trial_lines(trial)[-1])["evaluation_loss"]


def trial_lines(trial: dict[str, Any]) -> list[str]:
    return (Path(trial["run_folder"]) / "metrics.jsonl").read_text().splitlines()


def test_the_page_has_every_trials_and_the_bases_answer_to_the_same_questions(whole: dict[str, Any]) -> None:
    page = Path(whole["page"]).read_text(encoding="utf-8")
    cards = re.findall(r'<section class="card">.*?</section>', page, re.DOTALL)
    run = open_run(whole["best"]["run_folder"])
    rows = run.evaluation_rows()
    assert len(cards) == len(rows) == 8
    engine = run.engine(run.dtype)
    questions = [row[:-1] for row in rows]
    tuned, base = (engine.generate(questions, Sampling(4), tuned=one) for one in (True, False))
    for card, row, own, bases in zip(cards, rows, tuned, base, strict=True):
        texts = [html.unescape(text) for text in re.findall(r"<pre>(.*?)</pre>", card, re.DOTALL)]
        labels = re.findall(r'class="label[^>]*>([^<]*)<', card)
        assert row[0]["content"] in html.unescape(card)
        assert labels[0] == "base"
        assert sorted(labels[1:]) == [f"trial-00{number}" for number in range(4)]
        found = dict(zip([*labels, "reference"], texts, strict=True))
        assert found["base"].split() == (bases.text or "(empty)").split()
        assert found[whole["best"]["name"]].split() == (own.text or "(empty)").split()
        assert found["reference"] == row[-1]["content"]
    assert "http" not in re.sub(r"http-equiv", "", page), "nothing from outside"


def test_a_trial_that_falls_behind_ends_early_and_is_a_run_like_any_other(folder: Path, tmp_path: Path) -> None:
    words = [f"sweep.folder={tmp_path / 'sweep'}", "sweep.pruning={type: median, after_trials: 1}"]
    words.append('sweep.space={"training.learning_rate": [5.0e-3, 1.0e-6]}')
    with pytest.raises(RecipeError, match=r"learning_rate|space"):
        load_sweep(folder / "two.yaml", ["sweep.space={}"])
    result = run_sweep(load_sweep(folder / "two.yaml", words), quiet=True)
    first, second = result["trials"]
    assert (first["state"], first["steps"]) == ("complete", 4)
    assert (second["state"], second["steps"], second["pruned"]) == ("pruned", 2, True)
    assert result["best"]["name"] == "trial-000"
    assert open_run(second["run_folder"]).about["result"]["steps"] == 2
    assert "pruned" in Path(result["page"]).read_text()


def test_a_trial_that_fails_is_noted_and_the_others_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sweeps.train_one

    def train_one(own: Any, *others: Any) -> Any:
        if own.recipe.adapter.rank in failing:
            raise WorkError(Fault("the loss of step 3 is nan"))
        return real(own, *others)

    monkeypatch.setattr(sweeps, "train_one", train_one)
    failing, words = {4}, [f"sweep.folder={tmp_path / 'sweep'}"]
    result = run_sweep(load_sweep(folder / "two.yaml", words), quiet=True)
    assert [trial["state"] for trial in result["trials"]] == ["failed", "complete"]
    assert "the loss of step 3 is nan" in Path(result["page"]).read_text()
    failing = set()
    again = run_sweep(load_sweep(folder / "two.yaml", words), quiet=True, resume=True)
    assert [trial["state"] for trial in again["trials"]] == ["complete", "complete"], "it is tried again"
    failing = {4, 8}
    with pytest.raises(WorkError, match="no trial came to its end"):
        run_sweep(load_sweep(folder / "two.yaml", [f"sweep.folder={tmp_path / 'none'}"]), quiet=True)


def test_a_trial_of_the_base_itself_leaves_the_others_as_they_are(
    folder: Path, tmp_path: Path, loads: list[Any]
) -> None:
    whole_base = {"adapter": None, "training.learning_rate": 1e-4}
    trials = {"small": {"adapter.rank": 4}, "whole": whole_base, "again": {"adapter.rank": 4}}
    (tmp_path / "listed.yaml").write_text(
        json.dumps({"recipe": str(folder / "recipe.yaml"), "search": {"type": "listed"}, "trials": trials})
    )
    result = run_sweep(load_sweep(tmp_path / "listed.yaml", [f"sweep.folder={tmp_path / 'sweep'}"]), quiet=True)
    small, whole, again = (trial["run_folder"] for trial in result["trials"])
    assert bits(small) == bits(again)
    assert bits(whole)["weights"] != bits(small)["weights"]
    assert len(loads) == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_was_broken_off_goes_on(number: int, folder: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    place = tmp_path / "sweep"
    words = [str(folder / "grid.yaml"), f"sweep.folder={place}", "training.checkpoints={every_steps: 1}"]
    command = [sys.executable, "-m", "danlu", "sweep", *words, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (place / "trial-001" / "checkpoints" / "step-000001").is_dir():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    if number == signal.SIGINT:
        assert process.returncode == 130, err
        assert "3 trials are left, from trial-001 on" in err
        assert json.loads(out.splitlines()[-1])["error"] == Stopped.__name__
    complete = (place / "trial-000" / "manifest.json").stat().st_mtime_ns
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (place / "trial-000" / "manifest.json").stat().st_mtime_ns == complete
    assert "goes on after step" in done.stderr
    assert result["best"]["name"] == whole["best"]["name"]
    for found, expected in zip(result["trials"], whole["trials"], strict=True):
        assert bits(found["run_folder"]) == bits(expected["run_folder"])


def test_a_sweep_goes_on_only_as_it_was_begun(folder: Path, whole: dict[str, Any]) -> None:
    place = f"sweep.folder={whole['sweep_folder']}"
    with pytest.raises(FolderError, match="not empty"):
        run_sweep(load_sweep(folder / "grid.yaml", [place]), quiet=True)
    with pytest.raises(RecipeError, match="begun with another `space`"):
        run_sweep(load_sweep(folder / "two.yaml", [place]), quiet=True, resume=True)
    with pytest.raises(RecipeError, match="the run was begun with 6"):
        run_sweep(load_sweep(folder / "grid.yaml", [place, "training.max_steps=2"]), quiet=True, resume=True)
    again = run_sweep(load_sweep(folder / "grid.yaml", [place]), quiet=True, resume=True)
    assert again["best"]["name"] == whole["best"]["name"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (['sweep.space={"training.learning_rat": [1]}'], ["unknown key `learning_rat`", "did you mean"]),
        (['sweep.space={"adapter.rank": [0, 600, 4]}'], ["`adapter.rank` is 0", "600"]),
        (['sweep.space={"model.name": [nowhere-at-all]}'], ["nowhere-at-all"]),
        (["data.evaluation=null"], ["none are held out"]),
        (["run.launcher={type: ray}"], ["in this process"]),
        (['sweep.space={"run.folder": [x]}'], ["`run.folder` can't be tried"]),
        (["tracking.trackers=[{type: absent}]"], ["tracking.trackers"]),
    ],
)
def test_what_is_wrong_is_said_before_a_weight_is_loaded(
    words: list[str], said: list[str], folder: Path, tmp_path: Path, loads: list[Any]
) -> None:
    with pytest.raises(InputError) as raised:
        run_sweep(load_sweep(folder / "two.yaml", [f"sweep.folder={tmp_path / 'sweep'}", *words]), quiet=True)
    assert all(part in str(raised.value) for part in said), str(raised.value)
    assert not loads
    assert not (tmp_path / "sweep").exists()


def test_what_is_wrong_with_a_listed_trial_is_said_by_its_line(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "listed.yaml"
    path.write_text(
        f"recipe: {folder / 'recipe.yaml'}\nsearch: {{type: listed}}\ntrials:\n  good: {{adapter.rank: 4}}\n"
        "  bad:\n    adapter.rank: 0\n    training.learning_rat: 1\n"
    )
    with pytest.raises(RecipeError) as raised:
        run_sweep(load_sweep(path), quiet=True)
    assert [fault.where.split(",")[0] for fault in raised.value.faults] == [f"{path}:6", f"{path}:7"]
