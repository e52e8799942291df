"""Data sets of the Hugging Face hub, and which files of a folder belong to a split."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from danlu.data.sources.kinds import DATA_ENDINGS

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([\w.-]+))?")
# Names that a split goes by in file and folder names, as the library `datasets` has them.
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def fetch_dataset(name: str) -> Path | str:
    """The downloaded folder of a hub data set, or why there is none."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        import huggingface_hub.constants

        huggingface_hub.constants.HF_HUB_OFFLINE = True
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [f"*{ending}" for ending in DATA_ENDINGS]
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns, etag_timeout=5))
    except LocalEntryNotFoundError:
        return "the hub is not reached and the data set is not in its cache"
    except HFValidationError as error:
        return str(error)
    except (HfHubHTTPError, OSError) as error:
        return str(error).splitlines()[0]


def split_of(relative: str) -> str | None:
    """The split that a file's path within a data set names (`data/train-00000-of-00002.parquet`), if any."""
    words = re.split(r"[^a-z]+", relative.lower())
    return next((split for split, names in _SPLIT_WORDS.items() if any(name in words for name in names)), None)


def files_of_split(folder: Path, files: Sequence[Path], wanted: str | None) -> tuple[list[Path], list[str]]:
    """The files of a split, and the splits that there are.

    Args:
        folder: what the paths are named within.
        files: all data files.
        wanted: the split; null means train if the names tell splits, and all files if they tell none.
    """
    splits = {file: split_of(file.relative_to(folder).as_posix()) for file in files}
    known = sorted({split for split in splits.values() if split})
    if not known and wanted in (None, "train"):
        return list(files), known
    word = next((split for split, names in _SPLIT_WORDS.items() if wanted in names), wanted or "train")
    return [file for file, split in splits.items() if split == word], known
