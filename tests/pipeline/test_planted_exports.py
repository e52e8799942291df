"""Faults planted in merged folders of a small trained model: each is caught, and named where it can be.

No folder has a manifest: hashes of files give nothing away.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_exports import SHARD_BYTES, Trained, make_trained

from danlu.engines.interface import NextTokens
from danlu.engines.transformers_engine import TransformersEngine
from danlu.export.causes import weight_faults
from danlu.export.comparison import BOUNDS, compare
from danlu.export.merge import tuned_source, write_merged
from danlu.export.parity import check_parity
from danlu.models.loading import load_base
from danlu.models.tokenizer import load_tokenizer
from danlu.training.probes import Probes
from danlu.training.trained import TrainedRun


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tiny_base, tmp_path_factory.mktemp("planted"), tied=False)


@pytest.fixture(scope="module")
def tied(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tiny_base, tmp_path_factory.mktemp("tied"), tied=True)


def write_again(run: TrainedRun, folder: Path) -> None:
    """Writes a folder anew, from a run that is not the one that was trained."""
    shutil.rmtree(folder)
    folder.mkdir()
    write_merged(run, folder, "float32", SHARD_BYTES)


def change(folder: Path, name: str, to: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Changes one tensor, or leaves it out where there is none in its place."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    path = folder / index["weight_map"][name]
    tensors = load_file(path)
    changed = to(tensors.pop(name))
    if changed is None:
        del index["weight_map"][name]
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        tensors[name] = changed.contiguous()
    save_file(tensors, path, {"format": "pt"})


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def wrong_alpha(trained: Trained, folder: Path, aside: Path) -> None:
    write_again(trained.other(aside, lora_alpha=48), folder)


def transposed_b(trained: Trained, folder: Path, aside: Path) -> None:
    run = trained.other(aside)
    path = run.folder / "adapter" / "adapter_model.safetensors"
    adapter = {
        name: tensor.t().reshape(tensor.shape).contiguous() if "lora_B" in name else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(adapter, path)
    write_again(run, folder)


def missing_end_token(trained: Trained, folder: Path, aside: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=None)
    edit(folder / "config.json", eos_token_id=None)


def other_template(trained: Trained, folder: Path, aside: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("You are a helpful", "You are an unhelpful"))


def stale_base(trained: Trained, folder: Path, aside: Path) -> None:
    base = shutil.copytree(trained.base, aside / "base")
    weights = load_file(base / "model.safetensors")
    torch.manual_seed(1)
    moved = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(moved, base / "model.safetensors", {"format": "pt"})
    write_again(trained.other(aside, base), folder)


def rounded_norm(trained: Trained, folder: Path, aside: Path) -> None:
    change(folder, "model.norm.weight", lambda weight: weight.bfloat16().float())


def dropped_head(trained: Trained, folder: Path, aside: Path) -> None:
    change(folder, "lm_head.weight", lambda _: None)


def untied_embeddings(trained: Trained, folder: Path, aside: Path) -> None:
    edit(folder / "config.json", tie_word_embeddings=False)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = "model-head.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    embeddings = load_file(trained.base / "model.safetensors")["model.embed_tokens.weight"]
    torch.manual_seed(0)
    head = embeddings + 0.01 * torch.randn_like(embeddings)
    save_file({"lm_head.weight": head}, folder / "model-head.safetensors", {"format": "pt"})


def wrong_shard(trained: Trained, folder: Path, aside: Path) -> None:
    other = shutil.copytree(folder, aside / "other")
    stale_base(trained, other, aside)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = index["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    shutil.copyfile(other / name, folder / name)


def applied_twice(trained: Trained, folder: Path, aside: Path) -> None:
    write_again(trained.other(aside, trained.merged), folder)


def shifted_vocabulary(trained: Trained, folder: Path, aside: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    special = {token["id"] for token in content["added_tokens"]}
    plain = sorted(set(content["model"]["vocab"].values()) - special)
    moved = dict(zip(plain, plain[1:] + plain[:1], strict=True))
    content["model"]["vocab"] = {token: moved.get(one, one) for token, one in content["model"]["vocab"].items()}
    path.write_text(json.dumps(content))


def truncated_file(trained: Trained, folder: Path, aside: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[-1]
    path.write_bytes(path.read_bytes()[:-100])


def missing_adapter(trained: Trained, folder: Path, aside: Path) -> None:
    for name, tensor in load_file(trained.base / "model.safetensors").items():
        change(folder, name, lambda _, tensor=tensor: tensor)  # type: ignore[misc]


def not_a_number(trained: Trained, folder: Path, aside: Path) -> None:
    change(
        folder, "model.layers.0.mlp.up_proj.weight", lambda weight: weight.index_fill(0, torch.tensor([3]), torch.nan)
    )


def other_angles(trained: Trained, folder: Path, aside: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", rope_parameters=config["rope_parameters"] | {"rope_theta": 500_000.0})


# What names each of them: with base and adapter at hand, and by the probes alone ("" where they only tell that
# something is wrong).
PLANTED: dict[Callable[[Trained, Path, Path], None], tuple[str, str]] = {
    wrong_alpha: ("has 1.5 times the adapter's update: another alpha", ""),
    transposed_b: ("by the adapter's A, but not by its B: transposed", ""),
    missing_end_token: ("stop tokens: none is named", "stop tokens: none is named"),
    other_template: ("chat template: 6 of 6 prompts", "chat template: 6 of 6 prompts"),
    stale_base: ("made from another base", ""),
    rounded_norm: ("model.norm.weight was rounded to bfloat16", ""),
    dropped_head: ("lm_head.weight is missing", "missing from the weights, first lm_head.weight"),
    untied_embeddings: ("tied weights: ", ""),
    wrong_shard: ("is of another export", ""),
    applied_twice: ("has the adapter's update twice", ""),
    shifted_vocabulary: ("the vocabulary is shifted by +1", "the vocabulary is shifted by +1"),
    truncated_file: ("safetensors: this safetensors file is broken", "safetensors: this safetensors file is broken"),
    missing_adapter: ("has nothing of the adapter's update", ""),
    not_a_number: ("has NaN or infinite values", "has NaN or infinite values"),
    other_angles: ("config: rope_parameters", ""),
}
FOR_TIED = {untied_embeddings}


@pytest.mark.parametrize("kind", ["trained", "tied"])
def test_the_folder_as_it_was_written_passes(request: pytest.FixtureRequest, kind: str) -> None:
    trained: Trained = request.getfixturevalue(kind)
    parity = check_parity(trained.merged, trained.probes, tuned_source(trained.run))
    assert parity.faults == []
    assert parity.by_dtype["float32"].max_logit_difference <= 1e-4
    assert parity.by_dtype["float32"].mean_kl <= 1e-7
    assert len(list(trained.merged.glob("*.safetensors"))) >= 2


@pytest.mark.parametrize("fault", PLANTED, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_caught_and_named(
    request: pytest.FixtureRequest, tmp_path: Path, fault: Callable[[Trained, Path, Path], None]
) -> None:
    trained: Trained = request.getfixturevalue("tied" if fault in FOR_TIED else "trained")
    (tmp_path / "aside").mkdir()
    folder = shutil.copytree(trained.merged, tmp_path / "merged")
    fault(trained, folder, tmp_path / "aside")
    named, named_by_probes = PLANTED[fault]
    parity = check_parity(folder, trained.probes, tuned_source(trained.run))
    assert any(named in one for one in parity.faults), parity.faults
    alone = check_parity(folder, trained.probes)
    assert any(named_by_probes in one for one in alone.faults), alone.faults


def test_layer_by_layer_says_the_same_and_catches_the_same(trained: Trained, tmp_path: Path) -> None:
    streamed = check_parity(trained.merged, trained.probes, layer_by_layer=True)
    assert (streamed.passed, streamed.layer_by_layer) == (True, True)
    assert streamed.by_dtype["float32"].greedy_equal == 6
    folder = shutil.copytree(trained.merged, tmp_path / "merged")
    change(folder, "model.layers.1.self_attn.v_proj.weight", lambda weight: weight * 1.05)
    assert not check_parity(folder, trained.probes, layer_by_layer=True).passed


class AlongAnswers:
    """An engine that is asked along the recorded answers only, which takes a tenth of the time."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine

    def next_tokens_of_all(self, probes: Probes, dtype: str) -> list[NextTokens]:
        wanted = [(probe.prompt_ids, probe.expected[dtype]) for probe in probes.probes]
        return [self.engine.next_tokens(prompt, one.answer_ids, one.token_ids) for prompt, one in wanted]


def scaled_one_by_one(model: Any, count: int) -> Iterator[str]:
    """Scales one tensor by 5 % at a time, chosen at random, and puts it back."""
    parameters = dict(model.named_parameters())
    dice = random.Random(0)
    for _ in range(count):
        name = dice.choice(sorted(parameters))
        own = parameters[name].data
        parameters[name].data = own * 1.05
        yield name
        parameters[name].data = own


def test_any_tensor_scaled_by_5_percent_is_caught_by_the_probes_alone(trained: Trained) -> None:
    model = load_base(trained.merged, torch.float32)
    probes = trained.probes
    engine = AlongAnswers(TransformersEngine(model, load_tokenizer(trained.merged), probes.stop_ids))
    assert compare(engine, probes, "float32").out_of(BOUNDS["float32"]) == []
    missed = [
        name
        for name in scaled_one_by_one(model, 100)
        if not compare(engine, probes, "float32").out_of(BOUNDS["float32"])
    ]
    assert len(missed) <= 5, missed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_tensor_scaled_by_5_percent_is_named_where_the_base_is_at_hand(
    trained: Trained, tmp_path: Path, dtype: str
) -> None:
    (tmp_path / "merged").mkdir()
    write_merged(trained.run, tmp_path / "merged", dtype, SHARD_BYTES)
    source = tuned_source(trained.run)
    assert weight_faults(tmp_path / "merged", source, dtype) == []
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    for name in random.Random(0).sample(sorted(index["weight_map"]), 4):
        folder = shutil.copytree(tmp_path / "merged", tmp_path / "copy")
        change(folder, name, lambda weight: weight * 1.05)
        assert weight_faults(folder, source, dtype) == [f"weights: {name} is scaled by 1.05"]
        shutil.rmtree(folder)
