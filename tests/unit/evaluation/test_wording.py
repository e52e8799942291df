"""The report says the same in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import danlu.evaluation
from danlu.evaluation.wording import CHINESE, ENGLISH, known, speaker

FOLDER = Path(danlu.evaluation.__file__).parent
PHRASE = re.compile(r"""\bsay\(\s*"((?:[^"\\]|\\.)*)\"""")
NAME = re.compile(r"\{(\w+)\}")


def phrases() -> set[str]:
    """All that the template and the code ask for by a plain string."""
    texts = [FOLDER / "report.py", FOLDER / "wording.py", FOLDER / "templates" / "report.html.j2"]
    return {found for path in texts for found in PHRASE.findall(path.read_text(encoding="utf-8"))}


def test_every_phrase_has_a_chinese_one() -> None:
    asked = phrases()
    assert len(asked) > 60
    assert asked <= CHINESE.keys()


def test_both_languages_fill_in_the_same() -> None:
    for english, chinese in CHINESE.items():
        assert sorted(NAME.findall(english)) == sorted(NAME.findall(chinese)), english
        assert chinese != english


def test_what_is_not_the_reports_own_stays_as_it_is() -> None:
    chinese = speaker("zh")
    assert known(chinese, "facts") == "事实"
    assert known(chinese, "ticket {code}") == "ticket {code}"
    assert ENGLISH("rule: {name}", name="{x}") == "rule: {x}"
