"""The house's own rules: who may import whom, how long things may be, what the README shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from kernels_there import THERE

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "danlu"

# Each line may import only from lines below it; what shares a line never imports each other.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["commands"],
    ["workflows"],
    ["serving"],
    ["registry"],
    ["export"],
    ["evaluation"],
    ["planning"],
    ["training"],
    ["engines"],
    ["adapters"],
    ["data"],
    ["models"],
    ["kernels"],
    ["environments"],
    ["tracking"],
    ["pages"],
    ["audit"],
    ["runs"],
    ["recipe", "shipped"],
    ["errors"],
    ["__init__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MAY_BE_DELETED = set() if THERE else {"kernels"}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "danlu" else [f"danlu.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("danlu."):
                first = name.split(".")[1]
                parts.add(first if first in LEVEL else "__init__")
            elif name == "danlu":
                parts.add("__init__")
    return parts


def test_every_part_of_the_package_has_a_layer() -> None:
    assert {part_of(path) for path in FILES} == set(LEVEL) - MAY_BE_DELETED


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_part_imports_only_what_is_below_it(path: Path) -> None:
    here = part_of(path)
    upward = {part for part in imported_parts(path) if part != here and LEVEL[part] <= LEVEL[here]}
    assert not upward, f"{here} must not import {upward}"


def test_a_forbidden_import_would_be_seen(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from danlu.evaluation.run import run_evaluation\n")
    assert imported_parts(bad) == {"evaluation"}


def test_no_two_test_files_have_one_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest would take the second for the first"


def test_kernels_import_nothing_of_ours() -> None:
    for path in (PACKAGE / "kernels").glob("*.py"):
        assert imported_parts(path) <= {"kernels"}, path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 <= 60, node.name
            arguments = node.args.args + node.args.kwonlyargs + node.args.posonlyargs
            assert len(arguments) <= 8 or path.name == "cli.py", node.name


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_readme_shows_the_tree_as_it_is(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    shown = re.search(r"```text tree\n(.*?)```", text, re.DOTALL)
    assert shown, "a block ```text tree"
    paths = [line.split()[0].rstrip("/") for line in shown.group(1).splitlines() if line.strip()]
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert missing == [f"src/danlu/{name}" for name in MAY_BE_DELETED]
    packages = {f"src/danlu/{name}" for name in LEVEL if (PACKAGE / name).is_dir()}
    assert packages <= set(paths)


def test_both_readmes_show_the_same_commands() -> None:
    blocks = []
    for readme in ("README.md", "README.zh-CN.md"):
        text = (ROOT / readme).read_text(encoding="utf-8")
        found = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        blocks.append([re.sub(r"#.*", "", line).strip() for block in found for line in block.splitlines()])
    assert blocks[0]
    assert blocks[0] == blocks[1]
