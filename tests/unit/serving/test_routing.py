"""Scenario rules choose the adapter; a file with a fault in it is refused with the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.errors import InputError
from danlu.serving.routing import read_routes

ROUTES = """
routes:
  - name: assistant
    rules:
      - {header: X-Department, equals: legal, model: law@candidate}
      - {prefix: "/med", model: medicine}
      - {keywords: [contract, 合同], model: law}
    default: support
"""


@pytest.mark.parametrize(
    ("headers", "text", "model"),
    [
        ({"x-department": "legal"}, "/med hello", "law@candidate"),
        ({"x-department": "sales"}, " /MED hello", "medicine"),
        ({}, "My CONTRACT ends", "law"),
        ({}, "请看这份合同。", "law"),
        ({}, "hello /med", "support"),
    ],
)
def test_the_first_rule_that_fits_decides(tmp_path: Path, headers: dict[str, str], text: str, model: str) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES)
    routes = read_routes(path)
    assert routes.choose("assistant", headers, lambda: text) == model
    assert routes.choose("law@3", headers, lambda: text) == "law@3"
    assert routes.models == {"law@candidate", "medicine", "law", "support"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("routes: [{name: a}]", "default"),
        ("routes: [{name: a, default: b, rules: [{model: c}]}]", "one of header"),
        ("routes: [{name: a, default: b, rules: [{model: c, header: d}]}]", "go together"),
        ("routes: [{name: a, default: b, rule: []}]", "rule"),
        ("routes: [{name: a, default: b}, {name: a, default: c}]", "two routes are named a"),
        ("routes: [", "can't be read"),
        ("- 1", "dictionary"),
    ],
)
def test_a_file_with_a_fault_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=said) as refused:
        read_routes(path)
    assert "routes.yaml" in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        read_routes(tmp_path / "none.yaml")
