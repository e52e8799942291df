"""From a model's name to a checked folder of safetensors weights on this disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from danlu.errors import Fault, ModelError
from danlu.models.embedded import EMBEDDED, embedded_model_folder
from danlu.models.folder import check_model_folder
from danlu.models.gguf import gguf_model_folder

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def find_model(name: str, revision: str | None = None) -> Path:
    """Finds a base model, fetching or converting it once where that is needed.

    The places, in this order: a folder, a `.gguf` file, an embedded short name, a hub id, a ModelScope id.

    Args:
        name: as in the recipe's `model.name`.
        revision: commit, tag or branch for the last two.

    Returns:
        A folder with `config.json`, tokenizer files and safetensors weights.

    Raises:
        ModelError: nothing answers to the name (each place tried is listed), or what was found can't be used.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return check_model_folder(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(
                Fault(
                    "this file is not a model",
                    name,
                    "a folder, a .gguf file, a short name or a hub id",
                    "name the folder that holds config.json and the .safetensors files",
                )
            )
        return gguf_model_folder(path)
    if name in EMBEDDED:
        return embedded_model_folder(name)
    tried = [
        f"folder {path}: not there",
        ".gguf file: not there" if path.suffix == ".gguf" else ".gguf file: the name has no .gguf ending",
        f"short name: not among {', '.join(sorted(EMBEDDED))}",
    ]
    for place, fetch in (("hub", _from_hub), ("ModelScope", _from_modelscope)):
        if path.suffix == ".gguf" or not _HUB_ID.fullmatch(name):
            tried.append(f"{place} id: not of the form owner/name")
            continue
        found = fetch(name, revision)
        if isinstance(found, Path):
            return check_model_folder(found)
        tried.append(f"{place} id: {found}")
    raise ModelError(
        Fault(
            f"no model `{name}` was found",
            "model.name; tried " + "; ".join(tried),
            "folder, .gguf file, short name, hub id, ModelScope id",
            f"use the embedded {next(iter(EMBEDDED))}, check the path, or fetch the model where there is a network",
        )
    )


def _from_hub(name: str, revision: str | None) -> Path | str:
    """The downloaded folder, or why there is none."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        import huggingface_hub.constants

        huggingface_hub.constants.HF_HUB_OFFLINE = True
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES, etag_timeout=5))
    except LocalEntryNotFoundError:
        return "the hub is not reached and the model is not in its cache"
    except HFValidationError as error:
        return str(error)
    except (HfHubHTTPError, OSError) as error:
        return str(error).splitlines()[0]


def _from_modelscope(name: str, revision: str | None) -> Path | str:
    """The downloaded folder, or why there is none."""
    try:
        from modelscope import snapshot_download
    except ImportError:
        return "the library is not installed (pip install 'danlu[modelscope]')"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:
        return str(error).splitlines()[0]
