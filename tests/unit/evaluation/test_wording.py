"""The report says the same in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import danlu.evaluation
from danlu.evaluation.attacks import ATTACKS
from danlu.evaluation.wording import CHINESE, ENGLISH, known, reteller, speaker, verdict_sentence
from danlu.training.verdict import Verdict, judge

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


@pytest.mark.parametrize("verdict", ["better", "worse", "no difference"])
def test_few_rows_are_cautioned_of_whatever_the_verdict(verdict: str) -> None:
    one = {"verdict": verdict, "rows": 29}
    assert verdict_sentence({"rouge_l": one}).endswith("Only 29 rows: small differences can't be seen.")
    assert "Only" not in verdict_sentence({"rouge_l": {**one, "rows": 30}})
    assert verdict_sentence({"rouge_l": one}, say=speaker("zh")).endswith("只有 29 行：看不出小的差别。")


def test_the_caution_names_the_metrics_that_have_few_rows() -> None:
    many, few, unjudged = ({"verdict": "no difference", "rows": rows} for rows in (128, 12, 1))
    compared = {"rouge_l": many, "field": few, "perplexity": {**unjudged, "verdict": "not judged"}}
    assert verdict_sentence(compared).endswith("Only 12 rows in field: small differences can't be seen there.")


def test_what_has_no_better_side_is_not_called_no_difference() -> None:
    said = verdict_sentence({"answer_tokens": {"verdict": "higher", "rows": 64}})
    assert said == "The tuned model is higher in answer tokens than its base."


def verdicts() -> list[Verdict]:
    """One of each sentence that a run's curves can lead to."""
    fall = [3.0 - 0.1 * step for step in range(20)]
    rise = [(5, 1.0), (20, 1.5)]
    cases: list[tuple[list[float], list[tuple[int, float]], float, int]] = [
        (fall[:3], [], 1.0, 3),
        (fall, rise, 1.0, 20),
        (fall, rise, 1.0, 5),
        (fall[:5] + [2.6] * 15, rise, 1.0, 20),
        ([2.0] * 20, [(10, 2.0), (20, 2.0)], 1.0, 20),
        (fall, [(10, 3.0), (20, 1.0)], 1.0, 20),
        (fall, [], 1.0, 20),
        (fall[:2] + [1.0] * 18, [], 1.0, 20),
        (fall[:2] + [1.0] * 18, [(20, 1.0)], 3.0, 20),
        (fall[:2] + [1.0] * 18, [(10, 1.0), (20, 1.0)], 3.0, 20),
    ]
    found = []
    for losses, held, epochs, saved in cases:
        at = dict(held)
        lines = [
            {"step": step, "loss": loss, "epoch": epochs * step / 20, "evaluation_loss": at.get(step)}
            for step, loss in enumerate(losses, 1)
        ]
        found.append(judge(lines, 640, 1_628_160, saved))
    return found


def test_what_a_run_says_of_its_curves_is_told_in_chinese_with_its_figures() -> None:
    retell, figures = reteller("zh"), re.compile(r"\d[\d.,]*\d|\d")
    assert {one.kind for one in verdicts()} == {"unknown", "overfitting", "unstable", "underfitting", "healthy"}
    for one in verdicts():
        told = retell(one.text)
        assert not re.search(r"[A-Za-z]{2,}", told), told
        assert sorted(figures.findall(told)) == sorted(figures.findall(one.text))
        words = [change for change in one.changes if not re.fullmatch(r"[\w.]+=(\S+|\{.*\})", change)]  # not keys alone
        assert all(re.search(r"[\u4e00-\u9fff]", retell(change)) for change in words), one
        assert reteller("en")(one.text) == one.text


def test_attacks_are_told_in_chinese() -> None:
    retell = reteller("zh")
    for name, attack in ATTACKS.items():
        assert not re.search(r"[A-Za-z]{2,}", retell(name.replace("_", " "))), name
        assert "token" in attack.about or not re.search(r"[A-Za-z]{2,}", retell(attack.about)), name
    assert retell("512 tokens of another text before it") == "前面放 512 个 token 的别的文字"
    assert retell("0.4 is under 0.95; a drop of 0.2 is over 0.1") == "0.4 低于 0.95；下降 0.2 高于 0.1"
    assert retell("a word list is not installed; get it") == "a word list is not installed; get it"
