"""The page of a sweep in a real browser: it fits a phone, draws every trial, and shows answers without obeying them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from test_report_in_a_browser import BROWSER, measured

from danlu.workflows.sweep_page import write_sweep_page

pytestmark = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"), reason="chromium is not installed"
)
QUESTION = [{"role": "user", "content": "<b>why</b> " + "x" * 300}]


def trial(number: int, state: str = "complete") -> dict[str, Any]:
    parameters = {"training.learning_rate": 1e-4 * (number + 1), "adapter.target_modules": ["q_proj", "v_proj"] * 3}
    about: dict[str, Any] = {"name": f"trial-{number:03d}", "parameters": parameters, "state": state}
    if state == "failed":
        return {**about, "error": "the loss of step 3 is nan"}
    return {
        **about,
        "steps": 9,
        "train_loss": 1.0,
        "evaluation_loss": 2.0 - number / 10,
        "trainable_parameters": 4_884_480,
        "seconds": 100.0,
        "metrics": {"rouge_l": 0.5},
        "curve": [[3, 2.5], [9, 2.0 - number / 10]],
        "losses": [[step, 3.0 - step / 9] for step in range(1, 10)],
        "answers": [{"messages": QUESTION, "reference": "r", "text": f"<b>{number}</b> 您好 " + "word " * 60}],
    }


@pytest.mark.parametrize("width", [375, 1200])
def test_it_fits_the_screen_and_shows_every_trial(width: int, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    trials = [*(trial(number) for number in range(9)), trial(9, "pruned"), trial(10, "failed")]
    base = {"model": "m", "texts": {}}
    write_sweep_page(page, "a-long-name-of-a-sweep-that-must-wrap-on-a-phone-because-it-is-long", trials, base)
    text = page.read_text(encoding="utf-8")
    assert text.index("trial-008</td>") < text.index("trial-000</td>"), "the best first"
    assert "trial-008 has the least loss: 1.200" in text
    assert "the loss of step 3 is nan" in text
    assert "<script" not in text
    page.write_text(text.replace("default-src 'none'; ", ""), encoding="utf-8")  # for the script that measures
    found = measured(page, width, tmp_path)
    assert found["client"] == width
    assert found["scroll"] <= width, "nothing sticks out to the side"
    assert len(found["curves"]) == 20
    assert min(found["curves"]) > 100
    assert found["left"] >= 0
    assert found["bold"] == 0
    assert found["cards"] == 1
