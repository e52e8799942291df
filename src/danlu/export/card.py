"""The model card of an export: what it is, what proves it, what it was made of."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu import __version__
from danlu.models.folder import is_encoder_decoder
from danlu.runs import MANIFEST, RESOLVED, write_text

CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """What a card tells of an export.

    Attributes:
        run: the run folder.
        about: the run's manifest.
        base: the base's folder.
        base_name: as the recipe names it.
        revision: of the base, if the recipe names one.
    """

    run: Path
    about: dict[str, Any]
    base: Path
    base_name: str
    revision: str | None


def write_card(
    folder: Path, exported: Exported, format: tuple[str, str, str], parity: dict[str, Any], notes: list[str]
) -> None:
    """Writes `README.md`.

    Args:
        folder: the export's.
        exported: what was exported.
        format: its name, its title, and how people run it.
        parity: as `parity.json` has it.
        notes: what else is worth telling, a sentence each.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    name, title, usage = format
    has_encoder = is_encoder_decoder(exported.base)
    environment = Environment(
        loader=PackageLoader("danlu.export"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    values = {
        "format": name,
        "title": title,
        "usage": usage.format(
            folder=folder,
            auto="AutoModelForSeq2SeqLM" if has_encoder else "AutoModelForCausalLM",
            graph="encoder_model.onnx" if has_encoder else "model.onnx",
        ),
        "library": {"gguf": "gguf", "gguf-lora": "gguf", "onnx": "onnx", "onnx-int8": "onnx"}.get(name, "transformers"),
        "version": __version__,
        "written": time.strftime("%Y-%m-%d", time.gmtime()),
        "run_folder": exported.run,
        "base_name": exported.base_name,
        "revision": exported.revision,
        "base_sha256": exported.about.get("base_sha256"),
        "licence": licence_of(exported.base),
        "parity": parity,
        "notes": notes,
        "metrics": _read(exported.run / "report" / MANIFEST).get("metrics"),
        "training": exported.about.get("result"),
        "recipe": (exported.run / RESOLVED).read_text(encoding="utf-8").rstrip(),
        **_ledger(exported.run),
    }
    write_text(folder / CARD, environment.get_template("card.md.j2").render(**values))


def licence_of(base: Path) -> str | None:
    """The licence that a model's folder states: in its manifest, or in front of its README; None if in neither."""
    stated = _read(base / MANIFEST).get("licence")
    readme = base / CARD
    if not stated and readme.is_file():
        found = re.match(r"---\n.*?^license:\s*(\S+)\s*$.*?^---", readme.read_text("utf-8", "replace"), re.S | re.M)
        stated = found.group(1).strip("'\"") if found else None
    return stated


def _ledger(run: Path) -> dict[str, Any]:
    ledger = _read(run / "ledger.json")
    reasons = [
        " ".join(map(str, one.values())) if isinstance(one, dict) else str(one) for one in ledger.get("reasons", [])
    ]
    return {"rows": ledger.get("rows"), "reasons": reasons}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
