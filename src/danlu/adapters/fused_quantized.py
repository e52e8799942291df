"""PEFT's LoRA on bitsandbytes' layers, with the way through it of `danlu.adapters.linear`.

Imported only for a base that has such layers, for it needs bitsandbytes.
"""

from __future__ import annotations

import bitsandbytes
from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt

from danlu.adapters.linear import Fusable


class FusedLinear4bit(Fusable, Linear4bit):  # type: ignore[misc]
    """On NF4 or FP4 weights."""


class FusedLinear8bit(Fusable, Linear8bitLt):  # type: ignore[misc]
    """On int8 weights."""


FUSED_QUANTIZED = {bitsandbytes.nn.Linear4bit: FusedLinear4bit, bitsandbytes.nn.Linear8bitLt: FusedLinear8bit}
