"""Smoothed labels, noise and weight decay are what torch, Transformers and the papers say; in training steps alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kernels_there import PLAIN_AND_PACKED, THERE
from small_models import SIZES
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.neftune import activate_neftune

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.adapters.targets import resolve_targets
from danlu.data.packing import pack
from danlu.data.prepared import Prepared
from danlu.data.store import StoreWriter, write_order
from danlu.data.store import to_batch as to_rows
from danlu.data.template import Document
from danlu.errors import RecipeError
from danlu.recipe import load_recipe
from danlu.training.backends.replicated import Replicated
from danlu.training.dropout import BaseDropout
from danlu.training.engine import choose_engine
from danlu.training.feed import to_batches
from danlu.training.loop import mean_loss
from danlu.training.objectives import Batch, sft, to_batch
from danlu.training.optimizers import decay_groups
from danlu.training.regularisation import NoisyEmbeddings, Regularisation, document_lengths
from danlu.training.session import Session

CPU = torch.device("cpu")
ALL = 1 << 20
RECIPE = Path(__file__).parents[3] / "recipes" / "smollm2_135m_lora.yaml"
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "final_logit_softcapping": 5.0}
GPT2 = {"n_inner": 96, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
CHANGES: dict[str, dict[str, Any]] = {"llama": {}, "gpt2": GPT2, "gemma2": GEMMA, "qwen2": {}}
NONE = BaseDropout({})


def some_documents() -> list[Document]:
    """Documents that begin alike, of four lengths."""
    numbers = torch.randint(10, 300, (4, 60), generator=torch.Generator().manual_seed(1)).tolist()
    return [
        Document((5, 6, 7, *row[:length]), ((6, 3 + length),))
        for row, length in zip(numbers, (9, 30, 14, 41), strict=True)
    ]


def tuned(kind: str) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **CHANGES[kind]})).eval()
    model = add_adapter(base, Lora(4, 8.0, 0.0), resolve_targets(base, "all-linear"), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
    return model.train()


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return found


# Smoothed labels


@pytest.mark.parametrize("kind", CHANGES)
def test_a_step_s_loss_and_gradients_are_those_of_torch_s_smoothed_cross_entropy(kind: str) -> None:
    model, total = tuned(kind), 0.0
    for document in some_documents():
        logits = model(input_ids=torch.tensor([document.ids])).logits[0]
        ((start, end),) = document.spans
        targets = torch.tensor(document.ids[start:end])
        loss = torch.nn.functional.cross_entropy(
            logits[start - 1 : end - 1], targets, reduction="sum", label_smoothing=0.2
        )
        loss.backward()
        total += loss.item()
    expected = gradients_of(model)
    engine = choose_engine(model, some_documents())
    assert engine.name.endswith(" chunked loss") or not THERE
    for plain, budget, share in ((engine.objective, ALL, engine.shares_prefix), (sft, 1, False)):
        objective = Regularisation(0.2, None, NONE).objective(plain)
        found = 0.0
        for batch in to_batches(some_documents(), budget, share, CPU):
            loss, _ = objective(model, batch)
            loss.backward()
            found += loss.item()
        assert found == pytest.approx(total, rel=1e-5)
        for name, gradient in gradients_of(model).items():
            assert float((gradient - expected[name]).norm()) < 1e-4 * float(expected[name].norm()), name


def test_without_smoothing_and_noise_the_objective_is_the_plain_one() -> None:
    assert Regularisation(0.0, None, NONE).objective(sft) is sft


# Noise on embeddings


class _Seen:
    """What a model's layers are given: its embeddings, after any noise."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.states: list[torch.Tensor] = []

    def __call__(self, objective: Any, batch: Batch, seed: int = 0) -> torch.Tensor:
        embeddings = self.model.get_input_embeddings()
        first = next(module for module in self.model.modules() if type(module).__name__.endswith(("Layer", "Block")))

        def note(_module: Any, given: Any, named: dict[str, Any]) -> None:
            self.states.append((given[0] if given else named["hidden_states"]).detach()[0])

        hook = first.register_forward_pre_hook(note, with_kwargs=True)
        torch.manual_seed(seed)
        try:
            with torch.no_grad():
                objective(self.model, batch)
        finally:
            hook.remove()
        assert not embeddings._forward_hooks, "nothing is left in the model"
        return self.states[-1]


@pytest.mark.parametrize("kind", CHANGES)
def test_an_unpacked_row_gets_the_noise_that_transformers_gives_it(kind: str) -> None:
    model = tuned(kind)
    (batch,) = to_batches(some_documents()[:1], 1, False, CPU)
    found = _Seen(model)(NoisyEmbeddings(sft, 7.0), batch)
    handle = activate_neftune(model, 7.0)
    states: list[torch.Tensor] = []
    first = next(module for module in model.modules() if type(module).__name__.endswith(("Layer", "Block")))
    hook = first.register_forward_pre_hook(
        lambda _module, given, named: states.append((given[0] if given else named["hidden_states"])[0]),
        with_kwargs=True,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        sft(model, batch)
    handle.remove()
    hook.remove()
    torch.testing.assert_close(found, states[0], rtol=0, atol=1e-6)
    with_none = _Seen(model)(sft, batch)
    assert float((found - with_none).abs().max()) > 0.1, "the noise is felt"


@pytest.mark.parametrize("share", PLAIN_AND_PACKED)
def test_each_packed_token_gets_the_noise_of_its_own_document_s_length(share: bool) -> None:
    """Uniform: within ±alpha / √(L·64), mean 0, a third of the bound's square as variance; nothing on what fills up."""
    documents, alpha = some_documents(), 7.0
    model = tuned("llama")
    if share:
        assert choose_engine(model, documents).attention == "packed"
    batch = to_batch(pack(documents, share), CPU)

    def embed(model: Any, batch: Batch, label_smoothing: float = 0.0) -> Any:
        return model.get_input_embeddings()(batch.ids)[0].detach()

    torch.manual_seed(1)
    noise = torch.stack([NoisyEmbeddings(embed, alpha)(model, batch) - embed(model, batch) for _ in range(200)])
    place = 3 if share else 0
    if share:
        _require_uniform(noise[:, :3], alpha / (max(len(document.ids) for document in documents) * 64) ** 0.5)
    for document in documents:
        length = len(document.ids)
        own = noise[:, place : place + length - (3 if share else 0)]
        _require_uniform(own, alpha / (length * 64) ** 0.5)
        place += own.shape[1]
    assert not noise[:, place:].any()
    assert noise.shape[1] > place or not share


def _require_uniform(noise: torch.Tensor, bound: float) -> None:
    assert float(noise.abs().max()) <= bound * (1 + 1e-4)  # it is a difference of float32 states of size 1
    assert float(noise.abs().max()) > 0.999 * bound
    # At least 38,000 draws: the mean's standard deviation is 0.003 of the bound, the variance's 0.0046 of a third.
    assert abs(float(noise.double().mean())) < 0.012 * bound
    assert float(noise.double().var()) == pytest.approx(bound**2 / 3, rel=0.02)


def test_a_token_s_length_is_its_document_s() -> None:
    documents = some_documents()
    lengths = [len(document.ids) for document in documents]
    plain = document_lengths(to_batch(pack(documents, False), CPU)).tolist()
    assert plain == [length for length in lengths for _ in range(length)]
    packed = document_lengths(to_batch(pack(documents, True), CPU)).tolist()
    own = [length for length in lengths for _ in range(length - 3)]
    assert packed == [max(lengths)] * 3 + own + [0] * (len(packed) - 3 - len(own))
    assert len(packed) % 64 == 0
    for share in (False, True):
        alone = document_lengths(to_batch(pack(documents[:1], share), CPU)).tolist()
        assert alone[: lengths[0]] == [lengths[0]] * lengths[0]
        assert not any(alone[lengths[0] :])


def test_noise_is_for_training_alone_and_nothing_of_it_stays() -> None:
    model = tuned("llama").eval()
    (batch,) = to_batches(some_documents(), ALL, False, CPU)
    seen, noisy = _Seen(model), NoisyEmbeddings(sft, 7.0)
    assert torch.equal(seen(noisy, batch), seen(sft, batch))
    model.train()
    assert not torch.equal(seen(noisy, batch), seen(sft, batch))

    def broken(*_: Any) -> Any:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        NoisyEmbeddings(broken, 7.0)(model, batch)
    assert not model.get_input_embeddings()._forward_hooks


def test_noise_and_smoothed_labels_act_together_and_a_measured_loss_knows_neither() -> None:
    model = tuned("llama")
    engine = choose_engine(model, some_documents())
    (batch,) = to_batches(some_documents(), ALL, True, CPU)
    plain = mean_loss(model, engine.objective, [batch])
    model.train()
    losses = {}
    for smoothing, alpha in ((0.0, None), (0.2, None), (0.0, 7.0), (0.2, 7.0)):
        torch.manual_seed(0)
        loss, weight = Regularisation(smoothing, alpha, NONE).objective(engine.objective)(model, batch)
        losses[smoothing, alpha] = loss.item() / weight
    assert losses[0.0, None] == pytest.approx(plain, rel=1e-6)
    assert len({round(loss, 3) for loss in losses.values()}) == 4
    assert mean_loss(model, engine.objective, [batch]) == plain


# Weight decay


def test_what_adamw_does_is_its_formula_with_decay_on_matrices_alone() -> None:
    """Loshchilov and Hutter (arXiv 1711.05101), algorithm 2, written out in float64."""
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Module()
    model.matrix = torch.nn.Parameter(torch.randn(4, 3, generator=generator, dtype=torch.float64))
    model.vector = torch.nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
    model.frozen = torch.nn.Parameter(torch.randn(4, 3, generator=generator, dtype=torch.float64), requires_grad=False)
    decays = {"matrix": 0.1, "vector": 0.0}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = decay_groups(trained, 0.1)
    assert [len(group["params"]) for group in groups] == [1, 1]
    backend = Replicated(model, trained, lambda _: torch.optim.AdamW(groups, lr=1.0, betas=(0.8, 0.9), eps=1e-8))
    expected = {name: getattr(model, name).detach().clone() for name in decays}
    moments = {name: (torch.zeros_like(weight), torch.zeros_like(weight)) for name, weight in expected.items()}
    for step, rate in enumerate((0.05, 0.02, 0.3), 1):
        gradients = {
            name: torch.randn(w.shape, generator=generator, dtype=torch.float64) for name, w in expected.items()
        }
        backend.set_learning_rate(rate)
        backend.backward(sum((getattr(model, name) * gradient).sum() for name, gradient in gradients.items()), True)
        backend.step(None)
        for name, gradient in gradients.items():
            first, second = moments[name]
            first.mul_(0.8).add_(gradient, alpha=0.2)
            second.mul_(0.9).add_(gradient**2, alpha=0.1)
            weight = expected[name] * (1 - rate * decays[name])
            expected[name] = weight - rate * (first / (1 - 0.8**step)) / ((second / (1 - 0.9**step)).sqrt() + 1e-8)
            torch.testing.assert_close(getattr(model, name).detach(), expected[name], rtol=1e-10, atol=1e-12)


def test_with_lora_a_and_b_decay_and_nothing_else_is_there() -> None:
    model = tuned("llama")
    (group,) = decay_groups({name: p for name, p in model.named_parameters() if p.requires_grad}, 0.1)
    trained = {id(p) for name, p in model.named_parameters() if "lora_A" in name or "lora_B" in name}
    assert {id(parameter) for parameter in group["params"]} == trained
    assert group["weight_decay"] == 0.1


# A whole run


WORDS = [
    "adapter.layers_to_transform=null",
    "model.dtype=float32",
    "training.num_epochs=5",
    "training.global_batch_size=8",
    "training.learning_rate=0.01",
]
ALL_OF_THEM = [
    "training.label_smoothing=0.1",
    "training.neftune_noise_alpha=5",
    "training.base_dropout={attention: 0.1, hidden: 0.1}",
    "training.weight_decay=0.1",
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "base"
    LlamaForCausalLM(LlamaConfig(**{**SIZES, "initializer_range": 0.05})).save_pretrained(folder)
    return folder


def session_of(base: Path, words: list[str]) -> Session:
    """Sixteen rows that all count upwards, of four lengths; four of them are held out."""
    folder = base.parent / "prepared"
    if not folder.exists():
        folder.mkdir()
        counting = [tuple(range(10 + n, 26 + n + 4 * (n % 4))) for n in range(20)]
        rows = [Document((5, 6, 7, *row), ((5, 3 + len(row)),)) for row in counting]
        with StoreWriter(folder) as writer:
            writer.append(to_rows(rows, ["rows.jsonl"] * len(rows)))
        write_order(folder, "train", range(16))
        write_order(folder, "evaluation", range(16, 20))
    recipe = load_recipe(RECIPE, [*WORDS, *words]).recipe
    return Session(recipe, base, None, Prepared(folder, {}))


def test_with_all_of_them_on_the_loss_falls_and_a_seed_gives_the_same_bits(base: Path) -> None:
    runs = []
    for words in (ALL_OF_THEM, ALL_OF_THEM, [*ALL_OF_THEM, "run.seed=1"], []):
        session = session_of(base, words)
        assert session.engine.name == "packed attention, fused layers, chunked loss" or not THERE
        before = session.evaluation_loss()
        losses = [step.loss for step in session.steps()]
        after = session.evaluation_loss()
        assert len(losses) == 10
        assert before is not None
        assert after is not None
        assert after < before - 0.5
        weights = {name: p.detach().clone() for name, p in session.model.named_parameters() if p.requires_grad}
        runs.append((before, losses, after, weights))
        assert [group["weight_decay"] for group in session.backend.optimizer.param_groups] == [0.1 if words else 0.0]
    first, second, other, plain = runs
    assert first[:3] == second[:3]
    assert all(torch.equal(first[3][name], second[3][name]) for name in first[3])
    assert first[1][-1] < first[1][0] - 0.5
    assert other[1] != first[1]
    assert first[0] == pytest.approx(plain[0], rel=1e-6), "a measured loss is the plain one"
    assert first[1][0] != pytest.approx(plain[1][0], rel=1e-3)


def test_each_key_alone_reaches_a_run_s_steps(base: Path) -> None:
    plain = next(session_of(base, []).steps()).loss
    keys = ["label_smoothing=0.1", "neftune_noise_alpha=5", "base_dropout.attention=0.1", "base_dropout.hidden=0.1"]
    losses = [next(session_of(base, [f"training.{key}"]).steps()).loss for key in keys]
    assert all(loss != pytest.approx(plain, rel=1e-5) for loss in losses), "rounding is 1e-7"
    assert next(session_of(base, ["training.weight_decay=0.1"]).steps()).loss == plain, "what it does comes after"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], ""),
        (["training.label_smoothing=0.1"], ""),
        (["training.neftune_noise_alpha=5"], "noise"),
        (["training.base_dropout.hidden=0.1"], "dropout"),
        (["training.base_dropout.attention=0.1"], "dropout"),
        (
            ["training.base_dropout={attention: 0.1, hidden: 0.1}", "training.neftune_noise_alpha=5"],
            "noise and dropout",
        ),
    ],
    ids=str,
)
def test_layers_that_vary_are_not_computed_once_and_the_log_says_why(base: Path, words: list[str], reason: str) -> None:
    session = session_of(base, ["adapter.layers_to_transform=[1]", *words])
    assert (session.frozen is None) == bool(reason)
    said = f"layers below 1 computed in every epoch ({reason})" if reason else "layers below 1 computed once"
    assert f", {said}" in session.describe()


def test_a_dropout_that_the_base_can_t_have_is_refused_before_its_weights_are_read(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "ernie4_5", "architectures": None}))
    (base / "model.safetensors").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"training\.base_dropout\.attention"):
        session_of(base, ["training.base_dropout.attention=0.1"])


def test_after_a_run_the_probes_see_a_model_without_hooks(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(base, ALL_OF_THEM)
    hooked = [module for module in session.model.modules() if module._forward_hooks]
    assert len(hooked) == 4
    monkeypatch.setattr("danlu.training.session.stop_ids", lambda *_: [])
    monkeypatch.setattr("danlu.training.session.TransformersEngine", lambda *_, **__: SimpleNamespace())
    monkeypatch.setattr("danlu.training.session.expect", lambda *_: [])
    monkeypatch.setattr("danlu.training.session.write_probes", lambda *_: None)
    session.write_probes(base.parent / "probes")
    assert not any(module._forward_hooks for module in [*session.model.modules(), *hooked])
