"""Tools with dependencies of their own, made once in `DANLU_HOME/tools`; the user's environment stays as it is.

A tool either has a Python environment of its own, or is a folder of packages that Danlu's own Python sees when it runs
the tool and at no other time. Packages come from wherever the user's pip is set up to take them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.errors import Fault, ResourceError, WorkError
from danlu.runs import danlu_home, require_disk, write_json
from danlu.tracking.progress import say

_MARKER = "complete.json"
_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")


@dataclass(frozen=True)
class Tool:
    """Packages at versions that are tested.

    Attributes:
        name: of its folder.
        requirements: for pip, in groups that are installed one after the other.
        needed_bytes: on the disk.
        alone: in a Python environment of its own; else beside Danlu's Python, without the packages' own requirements.
        import_from: folders in it, beside itself, from which its scripts import.
        mend: is given the folder once all is installed.
    """

    name: str
    requirements: tuple[tuple[str, ...], ...]
    needed_bytes: int
    alone: bool
    import_from: tuple[str, ...] = ()
    mend: Callable[[Path], None] | None = None


def make_once(name: str, made_of: dict[str, Any], needed_bytes: int, make: Callable[[Path], None]) -> Path:
    """A folder in `DANLU_HOME/tools` that is made by one process and kept; one of other parts is made anew.

    Args:
        name: of the folder.
        made_of: plain values; others than those of the folder that is there, and it is made anew.
        needed_bytes: on the disk.
        make: fills the empty folder.

    Raises:
        ResourceError: the disk is too full, or `make` could not get what it needs.
    """
    from filelock import FileLock

    folder = danlu_home() / "tools" / name
    made_of = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", **made_of}
    if _made_of(folder) == made_of:
        return folder
    require_disk(folder.parent, needed_bytes, f"the tool {name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{name}.lock"):
        if _made_of(folder) == made_of:  # another process may have made it meanwhile
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        say(f"making the tool {name}, once; it is kept in {folder}")
        folder.mkdir()
        try:
            make(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        write_json(folder / _MARKER, made_of)
    return folder


def _made_of(folder: Path) -> Any:
    try:
        return json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def tool_folder(tool: Tool) -> Path:
    """The tool's folder; its packages are fetched the first time.

    Raises:
        ResourceError: pip can't get them, or the disk is too full.
    """

    def make(folder: Path) -> None:
        python = sys.executable
        if tool.alone:
            _pip_run([sys.executable, "-m", "venv", str(folder)], tool.name)
            python = str(folder / "bin" / "python")
        there = () if tool.alone else ("--no-deps", "--target", str(folder))
        for group in tool.requirements:
            _pip_run([python, *_PIP, *there, *group], tool.name)
        if tool.mend is not None:
            tool.mend(folder)

    requirements = [list(group) for group in tool.requirements]
    return make_once(tool.name, {"requirements": requirements}, tool.needed_bytes, make)


def _pip_run(command: Sequence[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_clean(os.environ))
    if not done.returncode:
        return
    lines = (done.stderr or done.stdout).splitlines()
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["it said nothing"]
    raise ResourceError(
        Fault(
            f"the tool {name} could not be made: {errors[-1].removeprefix('ERROR: ')}",
            str(danlu_home() / "tools" / name),
            "a package index that pip reaches, and `python -m venv`",
            f"see what this prints: {' '.join(command)}",
        )
    )


def tool_command(tool: Tool, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command and the environment variables that run the tool's Python with these arguments.

    Raises:
        ResourceError: the tool can't be made.
    """
    folder = tool_folder(tool)
    variables = _clean(os.environ) | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if tool.alone:
        return [str(folder / "bin" / "python"), *arguments], variables
    places = [folder, *(folder / name for name in tool.import_from)]
    return [sys.executable, *arguments], variables | {"PYTHONPATH": os.pathsep.join(map(str, places))}


def _clean(variables: Any) -> dict[str, str]:
    """Without what would show the tool the packages of the environment that Danlu runs in."""
    return {name: value for name, value in variables.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def run_tool(tool: Tool, arguments: Sequence[str], purpose: str) -> str:
    """Runs the tool's Python to the end.

    Args:
        tool: made first if it is not there.
        arguments: of Python: a script and its own.
        purpose: what it does, as in "the conversion to GGUF".

    Returns:
        What it printed, stdout and stderr together.

    Raises:
        ResourceError: the tool can't be made.
        WorkError: it failed.
    """
    command, variables = tool_command(tool, arguments)
    return run_program(command, purpose, variables)


def run_program(command: Sequence[str], purpose: str, variables: dict[str, str] | None = None) -> str:
    """Runs a program to the end, and gives what it printed; `WorkError` with its last line if it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=variables
    )
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()] or ["it said nothing"]
        raise WorkError(
            Fault(
                f"{purpose} failed: {lines[-1]}",
                hint=f"see all that this prints: {' '.join(command)}",
            )
        )
    return done.stdout
