"""What is put on the base has been proven; what is broken, foreign or otherwise than it was trained is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from served_runs import QUESTIONS, broken_run, expected_answers, write_run

from danlu.engines.batching import Ask, Limits
from danlu.engines.interface import Sampling
from danlu.errors import DanluError, FolderError, GateError, InputError
from danlu.export.comparison import Bounds
from danlu.serving import proof
from danlu.serving.catalogue import run_folders
from danlu.serving.loading import AdapterLoader, ServedBase, open_base
from danlu.serving.proof import prove
from danlu.serving.routing import Route, Routes
from danlu.serving.serve import Keeping, make_desk
from danlu.training.probes import read_probes
from danlu.training.trained import open_run


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "law", tiny_base, 0)


@pytest.fixture(scope="module")
def base(run: Path) -> Iterator[ServedBase]:
    served = open_base(open_run(run), "auto", Limits())
    yield served
    served.engine.close()


def said(base: ServedBase, adapter: str | None) -> str:
    prompt = tuple(base.engine.prompt_ids([{"role": "user", "content": QUESTIONS[3]}]))
    return base.engine.answer(Ask(prompt, Sampling(12), adapter)).text


def test_a_run_is_loaded_proven_and_answers_as_it_was_trained(base: ServedBase, run: Path) -> None:
    AdapterLoader(base).load("one", run, proven=False)
    assert (said(base, "one"), said(base, None)) == expected_answers(run, QUESTIONS[3])
    figures = prove(base.engine, "one", read_probes(run), "float32", "")
    assert figures["argmax_agreement"] == 1.0
    assert float(figures["max_logit_difference"]) < 1e-4  # type: ignore[arg-type]
    AdapterLoader(base).unload("one")
    assert base.engine.bank.names == []


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("nan", FolderError, "NaN"),
        ("shape", FolderError, "does not fit this base"),
        ("base", InputError, "another base"),
        ("other", GateError, "logits: differ"),
    ],
)
def test_a_broken_run_is_refused_and_nothing_of_it_stays(
    base: ServedBase, run: Path, tmp_path: Path, how: str, error: type[DanluError], message: str
) -> None:
    before = said(base, None)
    with pytest.raises(error, match=message):
        AdapterLoader(base).load("two", broken_run(run, tmp_path, how), proven=False)
    assert base.engine.bank.names == []
    assert said(base, None) == before


def test_a_run_folder_whose_files_changed_is_not_served(base: ServedBase, run: Path, tmp_path: Path) -> None:
    catalogue = run_folders([broken_run(run, tmp_path, "hash")])
    with pytest.raises(InputError, match="not what the run wrote"):
        make_desk(base, catalogue, Routes(), Keeping())


def test_probes_that_were_rendered_otherwise_are_missed(base: ServedBase, run: Path) -> None:
    AdapterLoader(base).load("three", run, proven=True)
    tokenizer = base.engine.tokenizer
    kept = tokenizer.chat_template
    tokenizer.chat_template = kept.replace("<|im_start|>assistant", "<|im_start|>helper")
    try:
        with pytest.raises(GateError, match="template or tokenizer changed"):
            prove(base.engine, "three", read_probes(run), "float32", str(run))
    finally:
        tokenizer.chat_template = kept
        AdapterLoader(base).unload("three")


def test_another_dtype_is_held_to_its_own_bounds(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "BOUNDS", {"bfloat16": Bounds(9.0, 9.0, 0.1, 0.0)})
    served = open_base(open_run(run), "bfloat16", Limits())
    assert (served.dtype, served.engine.model.dtype) == ("bfloat16", torch.bfloat16)
    AdapterLoader(served).load("one", run, proven=True)
    figures = prove(served.engine, "one", read_probes(run), "bfloat16", "")
    assert float(figures["max_logit_difference"]) > 1e-3, "the bound of float32"  # type: ignore[arg-type]
    served.engine.close()


def test_names_must_be_each_others_own(base: ServedBase, run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two runs are named law"):
        run_folders([run, broken_run(run, tmp_path / "a", "other").rename(tmp_path / "law")])
    with pytest.raises(InputError, match="two models are named law"):
        make_desk(base, run_folders([run]), Routes([Route(name="law", default="law")]), Keeping())
    with pytest.raises(InputError, match="a route leads to nobody"):
        make_desk(base, run_folders([run]), Routes([Route(name="helper", default="nobody")]), Keeping())
