"""Scenario rules choose the adapter; a file with a fault in it is refused with the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scenario_questions import EXAMPLES, HELD_OUT, OTHER

from danlu.errors import InputError
from danlu.serving.routing import Routes, read_routes

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
        (
            "routes: [{name: a, default: b, rules: [{model: c, classifier: {d: [x, y, z], e: [x, y, z]}}]}]",
            "its models as",
        ),
        ("routes: [{name: a, default: b, rules: [{classifier: {d: [x, y, z], e: [x, y]}}]}]", "3 of each at least"),
        ("routes: [{name: a, default: b, rules: [{classifier: {d: [x, y, z]}}]}]", "two models or more"),
        ("routes: [{name: a, default: b, rules: [{classifier: none.yaml}]}]", "the examples can't be read"),
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


def routes_by_examples(folder: Path, min_confidence: float) -> Routes:
    (folder / "scenarios.json").write_text(json.dumps(EXAMPLES, ensure_ascii=False), encoding="utf-8")
    rule = f"{{classifier: scenarios.json, min_confidence: {min_confidence}}}"
    (folder / "routes.yaml").write_text(f"routes: [{{name: assistant, rules: [{rule}], default: base}}]")
    return read_routes(folder / "routes.yaml")


def test_questions_that_no_example_holds_go_where_their_like_go(tmp_path: Path) -> None:
    routes = routes_by_examples(tmp_path, 0.6)
    assert routes.models == {"base", "law", "medicine", "bank"}
    asked = [(text, name) for name, questions in HELD_OUT.items() for text in questions]
    assert not {text for text, _ in asked} & {text for questions in EXAMPLES.values() for text in questions}
    said = [routes.choose("assistant", {}, lambda text=text: text) for text, _ in asked]  # type: ignore[misc]
    right = sum(one == name for one, (_, name) in zip(said, asked, strict=True))
    wrong = sum(one not in (name, "base") for one, (_, name) in zip(said, asked, strict=True))
    assert right >= 0.75 * len(asked)
    assert wrong <= 0.05 * len(asked)


def test_what_is_of_no_scenario_goes_by_the_default(tmp_path: Path) -> None:
    routes = routes_by_examples(tmp_path, 0.6)
    said = [routes.choose("assistant", {}, lambda text=text: text) for text in OTHER]  # type: ignore[misc]
    assert said.count("base") >= len(OTHER) - 1


def test_the_same_examples_give_the_same_confidence(tmp_path: Path) -> None:
    rules = [routes_by_examples(tmp_path, 0.6)._routes["assistant"].rules[0] for _ in range(2)]
    asked = [text for questions in HELD_OUT.values() for text in questions]
    first, second = ([rule.scenarios.likeliest(text) for text in asked] for rule in rules)
    assert first == second
    assert len({confidence for _, confidence in first}) > 30
