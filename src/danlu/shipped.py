"""Recipes and examples that come with Danlu, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

from danlu.errors import Fault, FolderError


def shipped(name: str) -> Path:
    """The path of a shipped file, as in `recipes/smollm2_135m_lora.yaml`.

    Raises:
        FolderError: this installation lacks it.
    """
    package = Path(__file__).parent
    for root in (package / "_shipped", package.parents[1]):
        if (root / name).is_file():
            return root / name
    raise FolderError(Fault(f"this installation lacks {name}", str(package), hint="install Danlu again"))
