"""The product of frozen linear layers with low-rank adapters gives what its reference gives, and so do its gradients.

Bounds are relative to the norm of the expected tensor: float32 differs in the order of sums alone; bfloat16 is held
against float64, and may be off by no more than twice what the reference in bfloat16 is off by.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from danlu.kernels.low_rank import LowRank, low_rank, plain_low_rank

CASES = {  # shape of x without its last size; (out, rank, bias, transposed) of each layer
    "one token": ((1, 1), [(6, 2, False, False)]),
    "one layer": ((2, 5), [(6, 2, False, False)]),
    "rank one": ((3, 4), [(6, 1, False, False), (6, 1, False, False)]),
    "sizes and ranks that differ": ((2, 7), [(12, 3, True, False), (4, 1, False, False), (8, 2, True, False)]),
    "transposed weights": ((2, 5), [(9, 2, True, True), (7, 3, False, True)]),
    "no batch": ((300,), [(6, 2, True, False), (5, 2, False, False)]),
    "rank above both sizes": ((4,), [(2, 9, False, False)]),
}
SIZE = 8


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm())


def make(name: str, dtype: torch.dtype, adapters: torch.dtype | None = None) -> tuple[torch.Tensor, list[LowRank]]:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    lead, layers = CASES[name]
    x = random(*lead, SIZE).to(dtype).requires_grad_()
    made = []
    for number, (out, rank, bias, transposed) in enumerate(layers):
        weight = random(SIZE, out).t() if transposed else random(out, SIZE)
        down, up = random(rank, SIZE).to(adapters or dtype), random(out, rank).to(adapters or dtype)
        frozen_bias = random(out).to(dtype) if bias else None
        made.append(LowRank(weight.to(dtype), frozen_bias, down.requires_grad_(), up.requires_grad_(), 0.5 + number))
    return x, made


def as_float64(x: torch.Tensor, layers: list[LowRank]) -> tuple[torch.Tensor, list[LowRank]]:
    def wide(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().double().requires_grad_(tensor.requires_grad)

    return wide(x), [
        LowRank(wide(a.weight), None if a.bias is None else wide(a.bias), wide(a.down), wide(a.up), a.scaling)
        for a in layers
    ]


def results(outputs: list[torch.Tensor], x: torch.Tensor, layers: list[LowRank]) -> list[torch.Tensor]:
    """Outputs, and the gradients of x, every A and every B, for fixed gradients of the outputs."""
    generator = torch.Generator().manual_seed(4)
    given = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in outputs]
    trained = [x, *(layer.down for layer in layers), *(layer.up for layer in layers)]
    return [*outputs, *torch.autograd.grad(outputs, trained, given)]


def plain(x: torch.Tensor, layers: list[LowRank]) -> list[torch.Tensor]:
    return results([plain_low_rank(x, layer) for layer in layers], x, layers)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_every_gradient_equal_the_reference(name: str) -> None:
    x, layers = make(name, torch.float32)
    for found, expected in zip(results([*low_rank(x, layers)], x, layers), plain(x, layers), strict=True):
        assert found.shape == expected.shape
        assert distance(found, expected) < 1e-5


@pytest.mark.parametrize("name", [name for name in CASES if name != "no batch"])  # 300 rows would take long
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    x, layers = make(name, torch.float64)
    count = len(layers)

    def of(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        downs, ups = tensors[1 : 1 + count], tensors[1 + count :]
        return low_rank(tensors[0], [a._replace(down=d, up=u) for a, d, u in zip(layers, downs, ups, strict=True)])

    assert torch.autograd.gradcheck(of, (x, *(a.down for a in layers), *(a.up for a in layers)))


@pytest.mark.parametrize("adapters", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_bfloat16_is_no_further_from_the_truth_than_twice_the_reference(name: str, adapters: torch.dtype) -> None:
    x, layers = make(name, torch.bfloat16, adapters)
    truth = plain(*as_float64(x, layers))
    kernel, reference = results([*low_rank(x, layers)], x, layers), plain(x, layers)
    for number, (found, same, expected) in enumerate(zip(kernel, reference, truth, strict=True)):
        assert found.dtype == same.dtype
        # 2^-8 is one rounding to bfloat16: few numbers, as those of one token, may by chance be rounded well.
        assert distance(found, expected) < max(2 * distance(same, expected), 2**-8), number


def test_dropped_input_reaches_the_adapters_alone() -> None:
    x, layers = make("sizes and ranks that differ", torch.float64)
    mask = (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > 0.5).double() * 2
    linear = torch.nn.functional.linear
    expected = results(
        [linear(x, a.weight, a.bias) + linear(linear(x * mask, a.down), a.up) * a.scaling for a in layers],
        x,
        layers,
    )
    for found, wanted in zip(results([*low_rank(x, layers, x * mask)], x, layers), expected, strict=True):
        assert distance(found, wanted) < 1e-12
    assert torch.autograd.gradcheck(
        lambda x, dropped: low_rank(x, layers, dropped), (x, (x * mask).detach().requires_grad_())
    )


@pytest.mark.parametrize("dropped", [False, True])
def test_an_input_that_needs_no_gradient_gets_none(dropped: bool) -> None:
    x, layers = make("one layer", torch.float64)
    expected = plain(x, layers)
    still = x.detach()
    outputs = low_rank(still, layers, still.clone() if dropped else None)
    trained = [layers[0].down, layers[0].up]
    generator = torch.Generator().manual_seed(4)
    given = torch.randn(outputs[0].shape, generator=generator, dtype=torch.float64)
    for found, wanted in zip(torch.autograd.grad(outputs, trained, [given]), expected[2:], strict=True):
        assert distance(found, wanted) < 1e-12


def test_an_output_that_nobody_uses_has_no_part_in_the_gradients() -> None:
    x, layers = make("sizes and ranks that differ", torch.float64)
    low_rank(x, layers)[1].sum().backward()
    found = [x.grad, layers[1].down.grad, layers[1].up.grad]
    expected = torch.autograd.grad(plain_low_rank(x, layers[1]).sum(), [x, layers[1].down, layers[1].up])
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert distance(one, other) < 1e-12
    assert layers[0].down.grad is not None
    assert not layers[0].down.grad.any()
    assert not layers[2].up.grad.any()


def test_a_weight_that_is_made_is_made_once_for_the_product_and_once_for_the_gradient() -> None:
    x, layers = make("sizes and ranks that differ", torch.float32)
    expected = results([*low_rank(x, layers)], x, layers)
    made: list[torch.dtype] = []

    def maker(weight: torch.Tensor) -> Callable[[torch.dtype], torch.Tensor]:
        return lambda dtype: made.append(dtype) or weight.clone()

    kept = [a._replace(weight=maker(a.weight)) for a in layers]
    outputs = low_rank(x, kept)
    assert made == [torch.float32] * 3
    assert all(torch.equal(one, other) for one, other in zip(results([*outputs], x, layers), expected, strict=True))
    assert len(made) == 6
    assert torch.equal(plain_low_rank(x, kept[0]), plain_low_rank(x, layers[0]))


def test_frozen_weight_and_bias_never_get_a_gradient() -> None:
    x, layers = make("sizes and ranks that differ", torch.float32)
    frozen = [tensor.requires_grad_() for a in layers for tensor in (a.weight, a.bias) if tensor is not None]
    sum(output.sum() for output in low_rank(x, layers)).backward()
    assert x.grad is not None
    assert [tensor.grad for tensor in frozen] == [None] * 5


def test_inputs_stay_as_they_were_and_no_grad_gives_the_same_bits() -> None:
    x, layers = make("sizes and ranks that differ", torch.float32)
    before = [tensor.detach().clone() for tensor in (x, *(part for a in layers for part in a[2:4]))]
    outputs = low_rank(x, layers)
    with torch.no_grad():
        still = low_rank(x, layers)
    sum(output.sum() for output in outputs).backward()
    assert all(torch.equal(one, other) for one, other in zip(outputs, still, strict=True))
    assert not any(output.requires_grad for output in still)
    for now, then in zip((x, *(part for a in layers for part in a[2:4])), before, strict=True):
        assert torch.equal(now, then)


def test_backward_keeps_the_input_once_and_nothing_as_large_beside_it() -> None:
    x, layers = make("no batch", torch.float32)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        low_rank(x, layers)
    own = {t.data_ptr() for t in (x, *(part for a in layers for part in (a.down, a.up)))}
    new = [t for t in kept if t.data_ptr() not in own]
    assert [tuple(t.shape) for t in new] == [(300, 4)]  # x·A of ranks 2 and 2
