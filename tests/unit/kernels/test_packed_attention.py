"""Attention in blocks is attention over all scores at once; packed documents are attended as if each were alone.

Bounds are relative to the norm of the expected tensor. Blocks are of 128 queries: lengths lie on both
sides.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from danlu.data.packing import pack
from danlu.data.template import Document
from danlu.kernels import packed_attention
from danlu.kernels.packed_attention import causal_attention, plain_attention
from danlu.training.objectives import to_batch

LENGTHS = [1, 2, 37, 128, 129, 256, 300, 800]
WINDOWS = [None, 1, 5, 128, 200, 1000]
HEADS = {"grouped": (4, 2), "one key head": (4, 1), "as many key heads": (3, 3), "one head": (1, 1)}


def make(
    documents: int, heads: str, length: int, size: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    queries, keys = HEADS[heads]
    return tuple(  # type: ignore[return-value]
        torch.randn(documents, count, length, size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for count in (queries, keys, keys)
    )


def allowed(length: int, window: int | None) -> torch.Tensor:
    rows, columns = torch.arange(length)[:, None], torch.arange(length)
    return (columns <= rows) & (columns > rows - (window or length))


def outputs_and_gradients(attended: torch.Tensor, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    given = torch.randn(attended.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return [attended.detach(), *torch.autograd.grad(attended, tensors, given.to(attended.dtype))]


def plain(tensors: tuple[torch.Tensor, ...], window: int | None, softcap: float | None) -> list[torch.Tensor]:
    query, key, value = tensors
    attended = plain_attention(query, key, value, allowed(key.shape[2], window), 0.3, softcap)
    return outputs_and_gradients(attended.transpose(1, 2), tensors)


def blocks(tensors: tuple[torch.Tensor, ...], window: int | None, softcap: float | None) -> list[torch.Tensor]:
    query, key, value = tensors
    return outputs_and_gradients(causal_attention(query, key, value, 0.3, window, softcap), tensors)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    # A single token's weight is 1 whatever the scores: its gradients are zero, and so must be those found.
    return float((found.double() - expected.double()).norm() / max(float(expected.double().norm()), 1e-3))


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("length", LENGTHS)
def test_blocks_give_what_all_scores_at_once_give(length: int, window: int | None, softcap: float | None) -> None:
    tensors = make(2, "grouped", length, 8, torch.float32)
    for found, expected in zip(blocks(tensors, window, softcap), plain(tensors, window, softcap), strict=True):
        assert found.shape == expected.shape
        assert distance(found, expected) < 1e-5


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("length", [1, 129, 300])
def test_any_share_of_key_heads_gives_what_the_reference_gives(heads: str, length: int) -> None:
    tensors = make(3, heads, length, 5, torch.float32)
    for found, expected in zip(blocks(tensors, 100, None), plain(tensors, 100, None), strict=True):
        assert distance(found, expected) < 1e-5


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 3])
def test_gradients_are_those_of_finite_differences(
    window: int | None, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "_BLOCK", 4)
    tensors = make(2, "grouped", 10, 3, torch.float64)
    assert torch.autograd.gradcheck(lambda q, k, v: causal_attention(q, k, v, 0.3, window, softcap), tensors)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize(("length", "window"), [(37, None), (300, None), (300, 70)])
def test_bfloat16_is_no_further_from_the_truth_than_twice_the_reference(
    length: int, window: int | None, softcap: float | None
) -> None:
    tensors = make(2, "grouped", length, 16, torch.bfloat16)
    truth = plain(tuple(t.detach().double().requires_grad_() for t in tensors), window, softcap)
    kernel, reference = blocks(tensors, window, softcap), plain(tensors, window, softcap)
    for found, same, expected in zip(kernel, reference, truth, strict=True):
        assert found.dtype == torch.bfloat16
        assert distance(found, expected) < 2 * distance(same, expected)


def test_no_grad_gives_the_same_bits_and_inputs_stay_as_they_were() -> None:
    tensors = make(2, "grouped", 300, 8, torch.float32)
    before = [tensor.detach().clone() for tensor in tensors]
    attended = causal_attention(*tensors, 0.3, 70)
    with torch.no_grad():
        still = causal_attention(*tensors, 0.3, 70)
    attended.sum().backward()
    assert torch.equal(attended, still)
    assert not still.requires_grad
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))


def test_queries_keys_and_values_alone_are_kept() -> None:
    kept: list[torch.Tensor] = []
    tensors = make(2, "grouped", 200, 8, torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        causal_attention(*tensors, 0.3)
    assert [tuple(tensor.shape[-2:]) for tensor in kept] == [(200, 8)] * 3


def module(**config: Any) -> Any:
    return SimpleNamespace(config=SimpleNamespace(**config), layer_idx=0, training=False, is_causal=True)


def packed(
    documents: list[Document], states: Any, layer: Any, **options: Any
) -> tuple[torch.Tensor, list[tuple[int, int, int]]]:
    """What packed states are attended to, and (document, its position, its place in the pack) of every token."""
    made = pack(documents, True)
    layout = to_batch(made, torch.device("cpu")).layout
    places = [
        (row, position, place)
        for row, document in enumerate(documents)
        for position, place in enumerate(made.gather[row][: len(document.ids)])
    ]
    count = len(layout["scatter"])
    tensors = [torch.full((1, one.shape[1], count, one.shape[3]), 7.0, dtype=one.dtype) for one in states]
    for given, own in zip(states, tensors, strict=True):
        for row, position, place in places:
            own[0, :, place] = given[row, :, position]
    attended, weights = packed_attention.packed_attention(
        layer, *tensors, layout.pop("attention_mask"), **layout, **options
    )
    assert weights is None
    return attended[0], places


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 4, 140])
def test_each_packed_document_is_attended_as_if_it_were_alone(
    window: int | None, softcap: float | None, tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "_has_tiles", lambda _: tiles)
    prefix, lengths = (1, 2, 3), (5, 160, 12)
    documents = [Document((*prefix, *range(10 + 200 * n, 7 + 200 * n + k)), ((4, 5),)) for n, k in enumerate(lengths)]
    states = [tensor.detach() for tensor in make(3, "grouped", 160, 8, torch.float64)]
    for tensor in states:
        tensor[1:, :, :3] = tensor[:1, :, :3]  # a shared prefix has the same states in every document
    layer = module(sliding_window=window, attn_logit_softcapping=softcap)
    attended, places = packed(documents, states, layer, scaling=0.3, sliding_window=window, softcap=softcap)
    for row, length in enumerate(lengths):
        own = [tensor[row : row + 1, :, :length] for tensor in states]
        expected = plain_attention(*own, allowed(length, window), 0.3, softcap)[0].transpose(0, 1)
        for document, position, place in places:
            if document == row:
                torch.testing.assert_close(attended[place], expected[position])


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("lengths", [(5, 160, 12), (9, 9, 9), (40, 70, 200), (1000,)], ids=str)
def test_gradients_of_packed_documents_are_those_of_each_alone(
    lengths: tuple[int, ...], tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "_has_tiles", lambda _: tiles)
    prefix, longest = (1, 2, 3), max(lengths)
    documents = [Document((*prefix, *range(2000 * n, 2000 * n + k - 3)), ((4, 5),)) for n, k in enumerate(lengths, 1)]
    states = make(len(lengths), "grouped", longest, 8, torch.float64)
    with torch.no_grad():
        for tensor in states:
            tensor[1:, :, :3] = tensor[:1, :, :3]
    attended, places = packed(documents, states, module(), scaling=0.3)
    own = [(row, position, place) for row, position, place in places if row == 0 or position >= 3]
    expected = [
        plain_attention(*(one[row : row + 1, :, :length] for one in states), None, 0.3)[0].transpose(0, 1)
        for row, length in enumerate(lengths)
    ]
    found = torch.stack([attended[place] for _, _, place in own])
    wanted = torch.stack([expected[row][position] for row, position, _ in own])
    given = torch.randn(found.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(found, states, given), torch.autograd.grad(wanted, states, given), strict=True
    ):
        torch.testing.assert_close(one[:, :, 3:], other[:, :, 3:])
        torch.testing.assert_close(one[:, :, :3].sum(0), other[:, :, :3].sum(0))


def test_documents_of_similar_length_are_in_one_grid() -> None:
    lengths = (20, 30, 60, 200, 210, 500)
    documents = [Document(tuple(range(1000 * n, 1000 * n + k)), ((4, 5),)) for n, k in enumerate(lengths, 1)]
    layout = to_batch(pack(documents, True), torch.device("cpu")).layout
    assert layout["grids"] == ((3, 64), (2, 224), (1, 512))
    assert len(layout["gather"]) == 3 * 64 + 2 * 224 + 512


def test_dropout_drops_weights_in_training_alone() -> None:
    documents = [Document((1, 2, *range(10, 30)), ((3, 4),)), Document((1, 2, *range(40, 50)), ((3, 4),))]
    states = [tensor.detach() for tensor in make(2, "grouped", 22, 8, torch.float64)]
    layer = module()
    plain_states, _ = packed(documents, states, layer)
    still, _ = packed(documents, states, layer, dropout=0.5)
    assert torch.equal(plain_states, still)
    layer.training = True
    torch.manual_seed(0)
    dropped, _ = packed(documents, states, layer, dropout=0.5)
    assert not torch.allclose(dropped, plain_states)
    mean = torch.stack([packed(documents, states, layer, dropout=0.5)[0] for _ in range(400)]).mean(0)
    assert float((mean - plain_states).norm() / plain_states.norm()) < 0.1


def test_a_share_of_the_weights_is_dropped_and_the_others_grow_by_as_much() -> None:
    """Queries and keys of zeros weigh all that they see alike; values that are unit vectors show each weight."""
    length = 64
    documents = [Document(tuple(range(n * 100, n * 100 + length)), ((1, 2),)) for n in range(3)]
    zeros, values = torch.zeros(3, 2, length, length), torch.eye(length).expand(3, 2, length, length)
    layer = module()
    layer.training = True
    torch.manual_seed(0)
    attended, places = packed(documents, (zeros, zeros, values), layer, dropout=0.25)
    seen = torch.tensor([position + 1 for _, position, _ in places])[:, None, None]
    weights = torch.stack([attended[place] for _, _, place in places]) * seen  # 1 / 0.75 where kept, else 0
    visible = (torch.arange(length) < seen).expand_as(weights)
    assert not weights[~visible].any()
    kept = weights[visible] > 0
    torch.testing.assert_close(weights[visible][kept], torch.full((int(kept.sum()),), 1 / 0.75))
    # 12,480 draws: the share's standard deviation is 0.0039, and 0.016 is four of them.
    assert float(kept.double().mean()) == pytest.approx(0.75, abs=0.016)
    by_document = [kept.view(3, -1)[row] for row in range(3)]
    assert not torch.equal(by_document[0], by_document[1]), "each document has draws of its own"


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 4])
def test_outputs_and_gradients_under_dropout_are_those_of_each_document_alone_with_the_same_mask(
    window: int | None, softcap: float | None
) -> None:
    prefix, lengths = (1, 2, 3), (5, 30, 12)
    documents = [Document((*prefix, *range(10 + 99 * n, 7 + 99 * n + k)), ((4, 5),)) for n, k in enumerate(lengths)]
    states = [tensor.detach() for tensor in make(3, "grouped", 30, 8, torch.float64)]
    for tensor in states:
        tensor[1:, :, :3] = tensor[:1, :, :3]
        tensor.requires_grad_()
    layer = module(sliding_window=window, attn_logit_softcapping=softcap)
    layer.training = True
    torch.manual_seed(3)
    attended, places = packed(
        documents, states, layer, scaling=0.3, sliding_window=window, softcap=softcap, dropout=0.4
    )
    torch.manual_seed(3)
    mask = torch.nn.functional.dropout(torch.ones(3, 4, 32, 32, dtype=torch.float64), 0.4)  # a round length
    expected = []
    for row, length in enumerate(lengths):
        query, key, value = (tensor[row, :, :length].repeat_interleave(4 // tensor.shape[1], 0) for tensor in states)
        scores = query @ key.transpose(1, 2) * 0.3
        scores = softcap * torch.tanh(scores / softcap) if softcap else scores
        weights = torch.softmax(scores.masked_fill(~allowed(length, window), float("-inf")), -1)
        expected.append((weights * mask[row, :, :length, :length] @ value).transpose(0, 1))
    # What is shared is attended to once, in the first document.
    own = [(row, position, place) for row, position, place in places if row == 0 or position >= 3]
    found = torch.stack([attended[place] for _, _, place in own])
    wanted = torch.stack([expected[row][position] for row, position, _ in own])
    torch.testing.assert_close(found, wanted)
    given = torch.randn(found.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(found, states, given), torch.autograd.grad(wanted, states, given), strict=True
    ):
        # The pack has one copy of what is shared, written there by the last document; its gradients are the sum.
        torch.testing.assert_close(one[:, :, 3:], other[:, :, 3:])
        torch.testing.assert_close(one[:, :, :3].sum(0), other[:, :, :3].sum(0))


def test_under_dropout_too_a_document_does_not_see_its_neighbour() -> None:
    documents = [Document((1, 2, *range(10 + 50 * n, 30 + 50 * n)), ((3, 4),)) for n in range(2)]
    states = [tensor.detach() for tensor in make(2, "grouped", 22, 8, torch.float64)]
    layer = module()
    layer.training = True
    attended = []
    for factor in (1.0, -3.0):
        changed = [torch.cat([tensor[:1], tensor[1:] * factor]) for tensor in states]
        for tensor in changed:
            tensor[1:, :, :2] = tensor[:1, :, :2]
        torch.manual_seed(0)
        attended.append(packed(documents, changed, layer, dropout=0.4))
    (first, places), (second, _) = attended
    same = [torch.equal(first[place], second[place]) for row, position, place in places if row == 0]
    others = [torch.equal(first[place], second[place]) for row, position, place in places if row == 1 and position > 1]
    assert all(same)
    assert not any(others)


def test_without_a_grid_dropout_is_not_forgotten() -> None:
    query, key, value = (tensor.detach() for tensor in make(1, "grouped", 20, 8, torch.float64))
    layer = module()
    layer.num_key_value_groups = 2
    for options in ({}, {"softcap": 1.5}):
        outputs = []
        for training, dropout in ((False, 0.5), (True, 0.0), (True, 0.5)):
            layer.training = training
            given = dropout if training else 0.0  # as Transformers' layers hand it over
            outputs.append(
                packed_attention.packed_attention(
                    layer, query, key, value, None, dropout=given, scaling=0.3, **options
                )[0]
            )
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.allclose(outputs[1], outputs[2])


@pytest.mark.parametrize(
    ("config", "options", "causal"),
    [
        ({"sliding_window": 8}, {}, True),
        ({}, {"sliding_window": 8}, True),
        ({"sliding_window": 8}, {"sliding_window": 4}, True),
        ({"attn_logit_softcapping": 50.0}, {}, True),
        ({}, {"softcap": 50.0}, True),
        ({"attention_chunk_size": 8}, {}, True),
        ({"layer_types": ["chunked_attention"]}, {}, True),
        ({"layer_types": ["full_attention"]}, {"sliding_window": 8}, True),
        ({"layer_types": ["sliding_attention"], "sliding_window": 8}, {}, True),
        ({}, {"s_aux": torch.zeros(4)}, True),
        ({}, {}, False),
    ],
    ids=str,
)
def test_a_layer_that_attends_in_an_unknown_way_is_refused(
    config: dict[str, Any], options: dict[str, Any], causal: bool
) -> None:
    documents = [Document((1, 2, *range(10, 20)), ((3, 4),)), Document((1, 2, *range(40, 50)), ((3, 4),))]
    states = [tensor.detach() for tensor in make(2, "grouped", 12, 8, torch.float32)]
    packed(documents, states, module())
    layer = module(**config)
    layer.is_causal = causal
    with pytest.raises(TypeError, match="this kind of attention can't be packed"):
        packed(documents, states, layer, **options)


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({"sliding_window": 8}, 8),
        ({"sliding_window": 8, "use_sliding_window": False}, None),
        ({"sliding_window": 8, "layer_types": ["full_attention"]}, None),
        ({"sliding_window": 8, "layer_types": ["sliding_attention"]}, 8),
    ],
    ids=str,
)
def test_a_window_is_taken_where_config_and_layer_agree(config: dict[str, Any], window: int | None) -> None:
    documents = [Document((1, 2, *range(10, 20)), ((3, 4),)), Document((1, 2, *range(40, 50)), ((3, 4),))]
    states = [tensor.detach() for tensor in make(2, "grouped", 12, 8, torch.float32)]
    attended, _ = packed(documents, states, module(**config), sliding_window=window)
    full, _ = packed(documents, states, module())
    assert torch.equal(attended, full) == (window is None)
