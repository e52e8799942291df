"""Which rows count as trained on: those that were kept, whatever became of their files since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_runs import write_recipe

from danlu.data.ledger import CHANGES
from danlu.data.prepared import EVALUATION_ROWS
from danlu.data.run import prepare
from danlu.engines.local import local_answers
from danlu.evaluation.trained_rows import held_questions, trained_rows
from danlu.recipe import LoadedRecipe, load_recipe
from danlu.training.trained import TrainedRun

LONG = 'data.cleaning=[{"type": "length", "max_answer": 30}]'


@pytest.fixture
def trained(tiny_base: Path, tmp_path: Path) -> tuple[TrainedRun, LoadedRecipe]:
    """Forty rows as a run has them, of which those with the longest answers were dropped and eight held out."""
    loaded = load_recipe(write_recipe(tmp_path, tiny_base), [LONG, "data.max_dropped_share=0.5"])
    prepared = prepare(loaded, tiny_base, local_answers)
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copyfile(prepared.folder / EVALUATION_ROWS, folder / EVALUATION_ROWS)
    assert prepared.about["rows"]["dropped"] > 0
    return TrainedRun(folder, loaded.recipe, {"result": prepared.summary()}), loaded


def places(run: TrainedRun, loaded: LoadedRecipe) -> set[int]:
    known, notes = trained_rows(run, loaded)
    assert not notes
    return {int(one.where.rpartition(":")[2]) for one in known}


def kept_in_training(run: TrainedRun) -> set[int]:
    """By the account of the prepared rows alone."""
    lines = (Path(run.about["result"]["prepared_folder"]) / CHANGES).read_text().splitlines()
    dropped = {json.loads(line)["where"] for line in lines if '"dropped"' in line}
    away = dropped | {question.where for question in held_questions(run)}
    return set(range(1, 41)) - {int(where.rpartition(":")[2]) for where in away}


def test_rows_that_were_dropped_or_held_out_do_not_count(trained: tuple[TrainedRun, LoadedRecipe]) -> None:
    expected = kept_in_training(trained[0])
    assert len(expected) == trained[0].about["result"]["splits"]["train"]["rows"]
    assert places(*trained) == expected


def test_a_file_is_known_by_what_it_holds_wherever_it_is_seen_from(
    trained: tuple[TrainedRun, LoadedRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    section = trained[0].recipe.data.model_copy(update={"train": ("rows.jsonl",)})
    run = TrainedRun(trained[0].folder, trained[0].recipe.model_copy(update={"data": section}), trained[0].about)
    assert places(run, trained[1]) == kept_in_training(run)


def test_files_that_cannot_be_read_any_more_are_told_and_the_others_read(
    trained: tuple[TrainedRun, LoadedRecipe], tmp_path: Path
) -> None:
    run, loaded = trained
    files = (str(tmp_path / "gone.jsonl"), *run.recipe.data.train)
    section = run.recipe.data.model_copy(update={"train": files})
    both = TrainedRun(run.folder, run.recipe.model_copy(update={"data": section}), run.about)
    known, notes = trained_rows(both, loaded)
    assert len(known) == len(kept_in_training(run))
    (note,) = notes
    assert "gone.jsonl: no such data file" in note
    assert "evaluation files may hold rows that were trained on" in note


def test_where_the_account_is_gone_all_rows_count_and_it_is_told(trained: tuple[TrainedRun, LoadedRecipe]) -> None:
    run, loaded = trained
    dropped = run.about["result"]["rows"]["dropped"]
    shutil.rmtree(run.about["result"]["prepared_folder"])
    known, notes = trained_rows(run, loaded)
    assert len(known) == 40 - 8
    assert notes[0].startswith(f"{dropped} rows that were dropped before training count as trained on")
