"""A bank gives each row of a batch the answer of PEFT's model with that row's adapter, and the base back as it was."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import FAMILIES, make_base, save_adapters
from peft import PeftModel
from safetensors.torch import load_file, save_file

from danlu.adapters.bank import AdapterBank, BankedLinear
from danlu.adapters.plain_lora import read_plain_lora
from danlu.errors import FolderError

ROWS = ["many", None, "few", "one", "many", None]


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Path]]:
    base = make_base(request.param, 300)
    return base, save_adapters(request.param, base, tmp_path_factory.mktemp(request.param))


def filled_bank(base: Any, folders: dict[str, Path]) -> AdapterBank:
    bank = AdapterBank(base)
    for name, folder in folders.items():
        bank.add(name, read_plain_lora(folder, torch.float32))
    return bank


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits


def expected_logits(base: Any, folders: dict[str, Path], ids: torch.Tensor) -> torch.Tensor:
    rows = []
    for name, row in zip(ROWS, ids, strict=True):
        own = copy.deepcopy(base)
        model = own if name is None else PeftModel.from_pretrained(own, folders[name]).eval()
        rows.append(logits_of(model, row.unsqueeze(0)))
    return torch.cat(rows)


def test_each_row_has_the_logits_of_its_own_adapter_and_the_base_is_left_as_it_was(
    made: tuple[Any, dict[str, Path]],
) -> None:
    base, folders = made
    ids = torch.randint(0, 300, (len(ROWS), 7), generator=torch.Generator().manual_seed(1))
    expected = expected_logits(base, folders, ids)
    plain = logits_of(base, ids)
    assert (expected - plain)[[0, 2, 3]].abs().amax((1, 2)).min() > 0.1, "each adapter matters"
    bank = filled_bank(base, folders)
    bank.use(ROWS)
    torch.testing.assert_close(logits_of(base, ids), expected, rtol=1e-4, atol=1e-4)
    bank.use(["one"] * len(ROWS))
    alone = PeftModel.from_pretrained(copy_without(base, bank), folders["one"]).eval()
    torch.testing.assert_close(logits_of(base, ids), logits_of(alone, ids), rtol=1e-4, atol=1e-4)
    bank.close()
    assert not any(isinstance(module, BankedLinear) for module in base.modules())
    assert torch.equal(logits_of(base, ids), plain)


def copy_without(base: Any, bank: AdapterBank) -> Any:
    """The base alone; its bank is as before afterwards."""
    chosen = bank._chosen
    adapters = dict(bank._adapters)
    bank.close()
    alone = copy.deepcopy(base)
    for name, adapter in adapters.items():
        bank.add(name, adapter)
    bank.use(chosen)
    return alone


def test_adapters_come_and_go_between_batches(made: tuple[Any, dict[str, Path]]) -> None:
    base, folders = made
    ids = torch.randint(0, 300, (len(ROWS), 5), generator=torch.Generator().manual_seed(2))
    expected = expected_logits(base, folders, ids)
    bank = filled_bank(base, folders)
    try:
        bank.use(ROWS)
        bank.remove("few")
        bank.use([name if name != "few" else None for name in ROWS])
        others = [place for place, name in enumerate(ROWS) if name != "few"]
        torch.testing.assert_close(logits_of(base, ids)[others], expected[others], rtol=1e-4, atol=1e-4)
        bank.add("few", read_plain_lora(folders["few"], torch.float32))
        bank.use(ROWS)
        torch.testing.assert_close(logits_of(base, ids), expected, rtol=1e-4, atol=1e-4)
    finally:
        bank.close()


def test_an_adapter_that_nobody_uses_leaves_the_stack(tmp_path: Path) -> None:
    base = make_base("llama", 300)
    bank = filled_bank(base, save_adapters("llama", base, tmp_path))
    layer = base.get_submodule("model.layers.1.mlp.down_proj")
    bank.use(["many", "one"])
    assert layer._downs.shape[0] == 6 + 2
    for turn in range(600):
        bank.use(["many", None] if turn % 2 else [None, "many"])
    assert layer._downs.shape[0] == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
    ],
)
def test_what_is_more_than_plain_lora_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = save_adapters("llama", make_base("llama", 300), tmp_path)["few"]
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FolderError, match=said):
        read_plain_lora(folder, torch.float32)


def test_a_tensor_that_is_no_pair_is_refused(tmp_path: Path) -> None:
    folder = save_adapters("llama", make_base("llama", 300), tmp_path)["few"]
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"base_model.model.lm_head.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(FolderError, match=r"lm_head\.weight"):
        read_plain_lora(folder, torch.float32)


def test_an_adapter_of_another_base_is_refused_and_nothing_of_it_stays(tmp_path: Path) -> None:
    folders = save_adapters("llama", make_base("llama", 300), tmp_path)
    adapter = read_plain_lora(folders["many"], torch.float32)
    other = make_base("gpt2", 300)
    with pytest.raises(FolderError, match="does not fit this base"):
        AdapterBank(other).add("many", adapter)
    assert not any(isinstance(module, BankedLinear) for module in other.modules())
