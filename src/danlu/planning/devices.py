"""What a run may be planned for: this machine, or a card by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from danlu.errors import Fault, InputError

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    """Where a run would train.

    Attributes:
        name: as for `--device`; `this machine`.
        kind: `cpu` or `gpu`.
        memory_bytes: for everything that the run holds.
        operations_per_second: bfloat16 operations of matrix products, dense, as the maker gives them; 0 for this
            machine's processor, whose speed is measured.
        bytes_per_second: of its memory; 0 as above.
        bfloat16: whether it computes in bfloat16 (a T4 does not: float16).
    """

    name: str
    kind: str
    memory_bytes: int
    operations_per_second: float = 0.0
    bytes_per_second: float = 0.0
    bfloat16: bool = True


# Name: GiB, TFLOP/s in bfloat16 (dense, float32 sums; float16 for the T4 and the V100), GB/s: the makers' data sheets.
_CARDS: dict[str, tuple[int, float, float]] = {
    "t4": (16, 65, 320),
    "v100-16gb": (16, 125, 900),
    "v100-32gb": (32, 125, 900),
    "rtx-3060": (12, 25.5, 360),
    "rtx-3090": (24, 71, 936),
    "rtx-4060-ti-16gb": (16, 44, 288),
    "rtx-4070-ti-super": (16, 88, 672),
    "rtx-4080": (16, 97, 717),
    "rtx-4090": (24, 165, 1008),
    "rtx-5090": (32, 210, 1792),
    "a10": (24, 125, 600),
    "l4": (24, 121, 300),
    "l40s": (48, 362, 864),
    "a6000": (48, 155, 768),
    "a100-40gb": (40, 312, 1555),
    "a100-80gb": (80, 312, 2039),
    "h100-80gb": (80, 989, 3350),
    "h200": (141, 989, 4800),
}
_WITHOUT_BFLOAT16 = ("t4", "v100-16gb", "v100-32gb")
CARDS = {
    name: Device(name, "gpu", gib * GIB, tera * 1e12, giga * 1e9, name not in _WITHOUT_BFLOAT16)
    for name, (gib, tera, giga) in _CARDS.items()
}
THIS = "this machine"


def find_device(name: str | None) -> Device:
    """The device of that name; None: this machine, its first GPU if it has one.

    Raises:
        InputError: no card has the name.
    """
    if name is None:
        return this_device()
    key = name.lower().replace("_", "-").replace(" ", "-")
    if key in CARDS:
        return CARDS[key]
    near = difflib.get_close_matches(key, CARDS, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]}?" if near else "leave --device out for this machine"
    raise InputError(Fault(f"no device is called {name}", "--device", ", ".join(CARDS), hint))


def this_device() -> Device:
    """This machine: its first GPU, or its processor with the memory that is free now, a container's limit included."""
    import torch

    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        known = [card for name, card in CARDS.items() if name.split("-")[0] in about.name.lower().split()]
        card = min(known, key=lambda one: abs(one.memory_bytes - about.total_memory), default=CARDS["rtx-3090"])
        fast = bool(torch.cuda.is_bf16_supported())
        return Device(THIS, "gpu", about.total_memory, card.operations_per_second, card.bytes_per_second, fast)
    capabilities = torch.cpu.get_capabilities()
    fast = any(capabilities.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16"))
    return Device(THIS, "cpu", free_memory_bytes(), bfloat16=bool(fast))


def free_memory_bytes() -> int:
    """Memory that a new process may take: what is free, and what a container's limit leaves."""
    from pathlib import Path

    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))
