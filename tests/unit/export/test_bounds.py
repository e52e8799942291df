"""Every export has bounds to keep to."""

from __future__ import annotations

from danlu.export.comparison import BOUNDS
from danlu.export.formats.table import FORMATS
from danlu.models.loading import DTYPES


def test_each_format_and_type_has_bounds() -> None:
    asked = {kind for one in FORMATS.values() for kind in (one.quantize or (one.name,))} | DTYPES.keys()
    assert asked == BOUNDS.keys()


def test_fewer_bits_are_never_asked_for_more() -> None:
    order = ["float32", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"]
    agreements = [BOUNDS[name].argmax_agreement for name in order]
    assert agreements == sorted(agreements, reverse=True)
    assert all(bounds.argmax_agreement >= 0.5 for bounds in BOUNDS.values())
