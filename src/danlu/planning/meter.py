"""What a program on the meta device would hold and compute: bytes alive at the worst moment, operations, bytes moved.

Tensors on the meta device have shapes and no values, so the training program itself is run on them, in seconds and
without memory, whatever the model's size. Each storage counts from its making to its release.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Matrix products by name, in place or not, with the place of their first factor.
_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
# A product whose smallest size is at most this many numbers is in this bucket; larger ones are in the last.
SIZES = (16, 64, 256, 1024)


@dataclass
class Cost:
    """What was computed.

    Attributes:
        operations: floating-point operations of matrix products, a multiplication and an addition being two, by the
            bucket of `SIZES` of their smallest size: thin products are slow.
        bytes_moved: read and written by all other operations.
        calls: operations, of either kind.
    """

    operations: Counter[int] = field(default_factory=Counter)
    bytes_moved: float = 0.0
    calls: int = 0

    def copy(self) -> Cost:
        """As it is now."""
        return Cost(Counter(self.operations), self.bytes_moved, self.calls)

    def times(self, factor: float) -> Cost:
        """Of so many of it, as far as the work goes; calls stay."""
        operations = Counter({size: count * factor for size, count in self.operations.items()})
        return Cost(operations, self.bytes_moved * factor, self.calls)


class Meter(TorchDispatchMode):  # type: ignore[misc]
    """Counts while it is entered.

    Attributes:
        live: bytes alive now, by the part that they were made in; what was there before does not count.
        at_peak: the same at the moment at which their sum was largest.
        cost: of all operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live: Counter[str] = Counter()
        self.at_peak: Counter[str] = Counter()
        self.cost = Cost()
        self._part = "activations"
        self._known: dict[int, Any] = {}
        self._peak = 0

    def begin(self, part: str) -> None:
        """What is made from now on belongs to this part."""
        self._part = part

    def know(self, *tensors: Any) -> None:
        """Leaves out what was there before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = storage  # kept, so that its number is not given to another

    def forget_peak(self) -> None:
        """From now on the largest sum is sought anew."""
        self._peak, self.at_peak = 0, Counter()

    def move(self, tensor: torch.Tensor, part: str) -> None:
        """Counts a tensor as another part's from now on."""
        entry = self._known.get(tensor.untyped_storage()._cdata)
        if isinstance(entry, list):
            self.live[entry[0]] -= entry[1]
            self.live[part] += entry[1]
            entry[0] = part

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and counts it."""
        output = function(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        self._count(function, args, made, taken)
        for tensor in made:
            self._note(tensor)
        total = sum(self.live.values())
        if total > self._peak:
            self._peak, self.at_peak = total, Counter(self.live)
        return output

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or not size:
            return
        entry = self._known[key] = [self._part, size]
        self.live[self._part] += size

        def release() -> None:
            self.live[entry[0]] -= entry[1]
            self._known.pop(key, None)

        weakref.finalize(storage, release)

    def _count(self, function: Any, args: Any, made: list[torch.Tensor], taken: list[torch.Tensor]) -> None:
        name = function._schema.name.removeprefix("aten::").rstrip("_")
        if function.is_view or name in ("detach", "empty", "empty_like", "empty_strided", "new_empty"):
            return
        self.cost.calls += 1
        if name.startswith("_scaled_dot_product_flash_attention_for_cpu"):
            query, key = (args[1], args[2]) if "backward" in name else (args[0], args[1])
            products = 5 if "backward" in name else 2
            self.cost.operations[64] += products * 2.0 * math.prod(query.shape) * key.shape[-2]
            return
        if name in _PRODUCTS:
            first, second = args[_PRODUCTS[name] : _PRODUCTS[name] + 2]
            sizes = (*first.shape[-2:], second.shape[-1])
            size = next((size for size in SIZES if min(sizes) <= 1.5 * size), SIZES[-1])
            self.cost.operations[size] += 2.0 * math.prod(first.shape) * second.shape[-1]
            return
        self.cost.bytes_moved += sum(tensor.numel() * tensor.element_size() for tensor in (*made, *taken))
