"""Personal data is found and replaced, in Chinese and English; a key file turns reversible masking back."""

from __future__ import annotations

from danlu.data.privacy.forms import restore
from danlu.data.privacy.keyfile import KeyFile
from danlu.data.privacy.masker import KINDS, Masked, Masker

__all__ = ["KINDS", "KeyFile", "Masked", "Masker", "restore"]
