"""A folder's weights against base + adapter, tensor by tensor: which are not what they should be, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from danlu.export.stored import Stored, stored_tensors
from danlu.export.tensors import Made, Source, TunedTensors
from danlu.models.loading import DTYPES

# How far two sums of the same numbers may be apart, as a share of the largest: the order of additions. For the
# narrow dtypes, one step of the last bit of each number.
_SUMS = 1e-5
_STEP = {"float32": 0.0, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_BASE = "is not the base's, and no adapter touches it: the folder was made from another base"
_MIXED = "is not base + adapter"


@dataclass(frozen=True)
class Odd:
    """A tensor that is not what it should be: its name, its file, and what is wrong with it."""

    name: str
    file: str
    cause: str


def weight_faults(folder: Path, source: Source, dtype: str) -> list[str]:
    """What is wrong with a merged folder's weights, in words; nothing if they are base + adapter.

    Args:
        folder: with safetensors weights.
        source: what the tuned model is made of.
        dtype: in which the folder's weights are written.
    """
    tuned = TunedTensors(source)
    if tuned.in_parts:
        return []
    here = {one.parameter: one for one in placed_there(folder, tuned) if one.parameter}
    odd, alone = [], 0
    for made in tuned:
        found = here.get(made.stored.parameter) if made.stored.whole else None
        alone += made.tuned is made.base
        if made.stored.whole and (cause := _cause(made, found, dtype, tuned)):
            odd.append(Odd(made.stored.name, found.path.name if found else "", cause))
    return list(_summed_up(odd, here, alone)) + _untied(tuned, here)


def placed_there(folder: Path, tuned: TunedTensors) -> list[Stored]:
    """The folder's tensors, by their names in the tuned model; what is missing is not said here."""
    model = tuned.model.get_base_model() if hasattr(tuned.model, "get_base_model") else tuned.model
    names = {one.name: one.parameter for one in tuned.stored}
    known = {one.parameter for one in tuned.stored} | set(dict(model.named_parameters(remove_duplicate=False)))
    return [
        Stored(one.name, one.path, one.shape, one.dtype, names.get(one.name, one.name if one.name in known else ""))
        for one in stored_tensors(folder)
    ]


def _cause(made: Made, found: Stored | None, dtype: str, tuned: TunedTensors) -> str:
    """Why a tensor is not what it should be; empty if it is."""
    if found is None:
        return "" if any(made.stored.parameter in names for names in tuned.tied) else "is missing"
    if found.shape != made.stored.shape:
        return f"has the shape {list(found.shape)}, should have {list(made.stored.shape)}"
    if not made.stored.is_floating:
        return "" if torch.equal(found.read(), made.tuned) else _MIXED
    if _same(found.read(), made.tuned.to(DTYPES[dtype]), dtype):
        return ""
    there, wanted = found.read(torch.float32), made.tuned.float()
    if not torch.isfinite(there).all():
        return "has NaN or infinite values"
    return _of_update(made, there, dtype) or _of_numbers(there, wanted, dtype, made.tuned is made.base)


def _same(found: torch.Tensor, wanted: torch.Tensor, dtype: str) -> bool:
    if torch.equal(found, wanted):
        return True
    a, b = found.float(), wanted.float()
    return bool(((a - b).abs() <= _SUMS * b.abs().max() + _STEP[dtype] * b.abs()).all())


def _of_update(made: Made, there: torch.Tensor, dtype: str) -> str:
    """What became of the adapter's update in this tensor, if that explains it."""
    if made.tuned is made.base:
        return ""
    base = made.base.float()
    update, found = made.tuned.float() - base, there - base
    size = float(update.norm())
    if size == 0:
        return ""
    # What rounding to the dtype leaves of the tensor, beside the update.
    noise = 0.02 + _STEP[dtype] / 4 * float(base.norm()) / size
    if noise > 0.3:
        return ""
    ratio = float((found * update).sum()) / size**2
    if float((found - ratio * update).norm()) <= noise * size * max(1.0, abs(ratio)):
        if abs(ratio) <= noise:
            return "has nothing of the adapter's update"
        if abs(ratio - 2) <= noise:
            return "has the adapter's update twice"
        return f"has {ratio:.3g} times the adapter's update: another alpha or rank"
    if update.dim() != 2:
        return ""
    if update.shape[0] == update.shape[1] and float((found - update.t()).norm()) <= noise * size:
        return "has the adapter's update transposed"
    if _within_rows_of(update, found, noise):
        return "has an update by the adapter's A, but not by its B: transposed, or another's"
    if _within_rows_of(update.t(), found.t(), noise):
        return "has an update by the adapter's B, but not by its A: transposed, or another's"
    return ""


def _within_rows_of(update: torch.Tensor, found: torch.Tensor, noise: float) -> bool:
    """Whether all rows of `found` are sums of the rows of an update of low rank."""
    generator = torch.Generator().manual_seed(0)
    most = min(128, *(size // 2 for size in update.shape))
    basis = torch.linalg.qr((torch.randn(most, update.shape[0], generator=generator) @ update).t())[0]
    return all(float((one - (one @ basis) @ basis.t()).norm()) <= noise * float(one.norm()) for one in (update, found))


def _of_numbers(there: torch.Tensor, wanted: torch.Tensor, dtype: str, is_base: bool) -> str:
    size = float(wanted.norm())
    for narrow in ("bfloat16", "float16"):
        if dtype == "float32" and torch.equal(there, wanted.to(DTYPES[narrow]).float()):
            return f"was rounded to {narrow}"
    ratio = float((there * wanted).sum()) / size**2 if size else 0.0
    if size and float((there - ratio * wanted).norm()) <= 0.01 * size and abs(ratio - 1) > 1e-3:
        return f"is scaled by {ratio:.4g}"
    for shift in (1, -1):
        if wanted.dim() == 2 and _same(there, wanted.roll(shift, 0), "float32"):
            return f"has its rows shifted by {shift:+}"
    return _BASE if is_base else _MIXED


def _untied(tuned: TunedTensors, here: Mapping[str, Stored]) -> list[str]:
    """Matrices that are one in the base, and two in the folder."""
    faults = []
    for names in tuned.tied:
        stored = [here[name] for name in sorted(names) if name in here]
        if len(stored) > 1 and not all(torch.equal(stored[0].read(), other.read()) for other in stored[1:]):
            both = " and ".join(one.name for one in stored)
            faults.append(f"tied weights: {both} are one matrix in the base, and differ here")
    return faults


def _summed_up(odd: Sequence[Odd], here: Mapping[str, Stored], alone: int) -> Iterator[str]:
    """A line for each cause; one for a file in which everything is wrong, and nothing elsewhere."""
    files: dict[str, int] = {}
    for stored in here.values():
        files[stored.path.name] = files.get(stored.path.name, 0) + 1
    wrong = {one.file for one in odd}
    if len(files) > 1 and len(wrong) == 1 and len(odd) == files.get(next(iter(wrong)), 0) > 1:
        yield f"shard: {wrong.pop()} is of another export: none of its {len(odd)} tensors is what it should be"
    causes: dict[str, list[Odd]] = {}
    for one in odd:
        causes.setdefault(one.cause, []).append(one)
    for cause, those in causes.items():
        others = f" and {len(those) - 1} more" if len(those) > 1 else ""
        if cause == _BASE and len(those) < max(2, alone / 2):
            cause = "is not what the base has"
        yield f"weights: {those[0].name}{others} {cause}"
