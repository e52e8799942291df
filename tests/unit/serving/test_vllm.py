"""vLLM as a child of the gateway's, by a stand-in that has the same paths and a real tiny model.

With DANLU_VLLM=1 by vLLM itself, in the environment that Danlu makes for it: several GB, minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from running_gateway import RunningGateway
from served_runs import NUM_TOKENS, QUESTIONS, broken_run, expected_answers, write_run

from danlu.engines.batching import Limits
from danlu.errors import FolderError, GateError, InputError, ModelError, ResourceError
from danlu.serving.backends.interface import OpenedEngine
from danlu.serving.backends.vllm import VllmEngine, VllmLoads, open_vllm
from danlu.serving.backends.vllm_tool import vllm_command
from danlu.serving.catalogue import run_folders
from danlu.serving.desk import Desk
from danlu.serving.routing import Routes
from danlu.serving.serve import Keeping, make_desk
from danlu.training.trained import open_run

STAND_IN = str(Path(__file__).parents[2] / "vllm_stand_in.py")


def stand_in(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, STAND_IN, *words], dict(os.environ)


COMMAND = vllm_command if os.environ.get("DANLU_VLLM") else stand_in


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With half as many heads of twice the size: vLLM computes none of under 32 on a processor."""
    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("bases") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 1024}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "law", base, 0)


@pytest.fixture(scope="module")
def opened(run: Path) -> Iterator[OpenedEngine]:
    made = open_vllm(open_run(run), "auto", Limits(), COMMAND)
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def desk(opened: OpenedEngine, run: Path) -> Desk:
    return make_desk(opened, run_folders([run]), Routes(), Keeping())


@pytest.fixture(scope="module")
def gateway(desk: Desk) -> Iterator[RunningGateway]:
    made = RunningGateway(desk)
    yield made
    made.close()


def said(gateway: RunningGateway, model: str, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    answer = gateway.client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=NUM_TOKENS
    )  # type: ignore[arg-type]
    return str(answer.choices[0].message.content)


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_adapter_is_loaded_proven_and_answers_as_it_was_trained(gateway: RunningGateway, run: Path) -> None:
    for question in QUESTIONS:
        assert (said(gateway, "law", question), said(gateway, "tiny", question)) == expected_answers(run, question)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("nan", FolderError, "NaN"),
        ("base", ModelError, "another base"),
        ("other", GateError, "logits: differ"),
    ],
)
def test_a_broken_run_is_refused_and_taken_off(
    opened: OpenedEngine, run: Path, tmp_path: Path, how: str, error: type[Exception], message: str
) -> None:
    assert isinstance(opened.loads, VllmLoads)
    with pytest.raises(error, match=message):
        opened.loads.load("two", broken_run(run, tmp_path, how), proven=False)
    assert "two" not in opened.loads.folders
    assert "two" not in opened.loads.engine.names


def test_prompts_that_vllm_makes_otherwise_are_missed(
    opened: OpenedEngine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VllmLoads, "prompt_ids", lambda self, messages: [1, 2, 3])
    with pytest.raises(GateError, match="template or tokenizer changed"):
        opened.loads.load("two", run, proven=False)


def test_after_its_death_it_is_started_again_with_its_adapters(gateway: RunningGateway, run: Path) -> None:
    engine = gateway.desk.engine
    assert isinstance(engine, VllmEngine)
    os.kill(engine.child.process.pid, signal.SIGKILL)
    until(lambda: engine.fault() is not None, 10)
    until(lambda: engine.fault() is None, 180)
    assert said(gateway, "law", QUESTIONS[1]) == expected_answers(run, QUESTIONS[1])[0]


def test_a_model_that_vllm_loads_but_does_not_compute_is_refused_at_once(run: Path) -> None:
    with pytest.raises(ResourceError, match="can't compute it here: RuntimeError: no such product\n"):
        open_vllm(open_run(run), "auto", Limits(), lambda words: stand_in([*words, "--cannot"]))


def test_a_base_that_was_quantised_in_training_is_refused(run: Path, tmp_path: Path) -> None:
    copy = broken_run(run, tmp_path, "other")
    recipe = copy / "recipe.resolved.yaml"
    assert "  quantization:\n" in recipe.read_text()
    recipe.write_text(recipe.read_text().replace("  quantization:\n", "  quantization: {type: nf4}\n", 1))
    with pytest.raises(InputError, match="quantised as in this run's training"):
        open_vllm(open_run(copy), "auto", Limits(), stand_in)
