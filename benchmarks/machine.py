"""On what and with what a measurement was made."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")
_ARM_FLAGS = ("asimd", "sve", "sve2", "bf16", "i8mm")
_ASK_VERSIONS = """
import importlib.metadata, json, platform
found = {"python": platform.python_version()}
for name in ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "trl", "llamafactory"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def describe_machine() -> dict[str, Any]:
    """Processor, cores of the machine, what its cores can do, memory in bytes, system."""
    path = Path("/proc/cpuinfo")
    about = path.read_text(encoding="utf-8") if path.is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", about, re.MULTILINE)
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", about, re.MULTILINE)
    flags = set(found.group(1).split()) if found else set()
    return {
        "processor": model.group(1) if model else platform.processor() or platform.machine(),
        "logical_cores": psutil.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "flags": [flag for flag in (*_FLAGS, *_ARM_FLAGS) if flag in flags],
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
    }


def versions(python: str) -> dict[str, str]:
    """What an environment has, by its python; the reason under `failed` if it can't be asked."""
    try:
        done = subprocess.run([python, "-c", _ASK_VERSIONS], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return {"failed": str(error)}
    found: dict[str, str] = json.loads(done.stdout)
    return found


def revision() -> str:
    """The commit that is checked out here, with `+changes` if files differ from it; empty outside a checkout."""
    here = Path(__file__).parent

    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = ask("rev-parse", "--short=12", "HEAD")
    return commit + "+changes" if commit and ask("status", "--porcelain", "--", "../src") else commit


def describe_run(threads: int) -> dict[str, Any]:
    """With what this very command measures: date, machine, threads, commit, versions, and the command."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        "threads": threads,
        "revision": revision(),
        "versions": versions(sys.executable),
        "command": shlex.join(["python", *sys.argv]),
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Writes what was measured, and makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
