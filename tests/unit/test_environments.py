"""Tools are made once, by one process, whole or not at all, and never in the environment that Danlu runs in."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from danlu.environments import Tool, make_once, run_tool, tool_command, tool_folder
from danlu.errors import ResourceError, WorkError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A wheel, which is a zip file with its description."""
    wheel = tmp_path / "lamp-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("lamp.py", "import sys\nprint('lit', *sys.argv[1:])\n")
        about = "lamp-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: lamp\nVersion: 1.0\n")
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return wheel


@pytest.mark.parametrize("alone", [True, False])
def test_a_tool_runs_with_its_packages_and_danlus_own_python_never_sees_them(
    home: Path, package: Path, alone: bool
) -> None:
    tool = Tool("lamp", ((str(package),),), 1, alone)
    assert run_tool(tool, ["-m", "lamp", "bright"], "the lamp") == "lit bright\n"
    assert subprocess.run([sys.executable, "-c", "import lamp"], capture_output=True, check=False).returncode
    command, variables = tool_command(tool, [])
    assert (command[0] == sys.executable) is not alone
    assert ("PYTHONPATH" in variables) is not alone


def test_a_tool_is_made_once_and_made_anew_when_its_parts_change(home: Path, package: Path) -> None:
    tool = Tool("lamp", ((str(package),),), 1, False)
    folder = tool_folder(tool)
    (folder / "kept").touch()
    assert tool_folder(tool) == folder
    assert (folder / "kept").exists()
    marker = json.loads((folder / "complete.json").read_text())
    (folder / "complete.json").write_text(json.dumps(marker | {"requirements": [["lamp==0.9"]]}))
    tool_folder(tool)
    assert not (folder / "kept").exists()


def test_of_processes_that_want_one_tool_at_once_one_makes_it(home: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "part").touch()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: make_once("lamp", {"version": 1}, 1, make), range(8)))
    assert len(made) == 1
    assert {folder / "part" for folder in found} == {home / "tools" / "lamp" / "part"}


def test_a_package_that_pip_cannot_get_is_one_message_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    missing = tmp_path / "no-such-1.0-py3-none-any.whl"
    with pytest.raises(ResourceError) as error:
        tool_folder(Tool("lamp", ((str(missing),),), 1, False))
    assert error.value.exit_status == 2
    (fault,) = error.value.faults
    assert "the tool lamp could not be made" in fault.what
    assert "pip install" in fault.hint
    assert not (home / "tools" / "lamp").exists()


def test_a_full_disk_is_said_before_anything_is_made(home: Path, package: Path) -> None:
    with pytest.raises(ResourceError, match="not enough disk for the tool lamp"):
        tool_folder(Tool("lamp", ((str(package),),), 2**60, False))
    assert not (home / "tools" / "lamp").exists()


def test_a_tool_that_fails_says_its_last_line(home: Path, package: Path) -> None:
    tool = Tool("lamp", ((str(package),),), 1, False)
    with pytest.raises(WorkError, match="the lamp failed: ValueError: no oil"):
        run_tool(tool, ["-c", "raise ValueError('no oil')"], "the lamp")
