"""The lists of words that lie beside this file as text: `[title]` and a line of words or characters."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources


@lru_cache(maxsize=2)
def word_lists(name: str) -> dict[str, str]:
    """The line under each title of a list file.

    Args:
        name: `names_zh` or `names_en`.
    """
    text = resources.files("danlu.data.privacy").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {title.strip("[]"): words for title, words in zip(lines[::2], lines[1::2], strict=True)}
