"""The report in a real browser: it fits a phone, draws its curve, and needs nothing from outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu.evaluation.report import PAGES, write_comparison, write_report

ROOT = Path(__file__).parents[2]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--no-first-run", "--hide-scrollbars"]  # fmt: skip

pytestmark = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"), reason="chromium is not installed"
)


RULE = {
    "metric": "compliance",
    "group": "cards",
    "min": 0.95,
    "against": "base",
    "passed": False,
    "says": "0.4 is under 0.95",
}


def compared(first: float, second: float, verdict: str) -> dict[str, Any]:
    return {
        **{"first": first, "second": second, "difference": second - first, "interval": [0.1, 0.9], "verdict": verdict},
        **{"wins": 3, "ties": 1, "losses": 0, "rows": 40, "style": "share", "task": "compliance"},
    }


def percentiles(value: float) -> dict[str, float]:
    return {"mean": value, "p50": value, "p90": 2 * value, "p99": 3 * value}


def stress() -> dict[str, Any]:
    """Robustness, forgetting and latency, as `report.json` has them."""
    text = "a long question without a blank " + "x" * 200
    example = {"row": 0, "question": text, "changed": text, "before": "<b>", "after": "", "score_before": 1.0}
    attack = {
        **{"about": "keys beside the right one", "possible": 10, "changed": 9, "score_before": 0.9, "score_after": 0.4},
        **{"drop": 0.5, "drop_interval": [0.2, 0.7], "obeyed": 0.25, "examples": [{**example, "score_after": 0.0}]},
    }
    model = {"rows": 10, "score_before": 0.9, "attacks": {"typos": attack, "case": {**attack, "drop": -0.1}}}
    item = {"name": "n", "question": text, "expected": "7", "base": "7", "tuned": "8"}
    length = {"asked": 32, "prompt_tokens": 31.5, "first_token_seconds": percentiles(0.4), "tokens_per_second": 9.0,
              "seconds_per_token": percentiles(0.1)}  # fmt: skip
    return {
        "robustness": {"models": {"base": model, "tuned": model}, "left_out": {"homophones": "no row"}, "score": ["a"]},
        "forgetting": {
            "items": 10,
            "accuracy": {one: {"en": {"all": 0.5, "common_sense": 0.5}} for one in ("base", "tuned")},
            "change": {"en": {"difference": 0.0, "interval": [-0.1, 0.1]}},
            "perplexity": {"en": {"tokens": 9, "base": 20.0, "tuned": 22.0}},
            "lost": [item],
            "gained": [],
        },
        "latency": {
            "new_tokens": 8,
            "repeats": 3,
            "machine": {"gpu": None, "processor": "a processor"},
            "lengths": [length, length],
            "left_out": {"9999": "too long"},
        },
    }


def content() -> dict[str, Any]:
    answer = {"text": "<b>not bold</b> 您好\n1. " + "word " * 60, "finish": "stop", "scores": {"compliance": 1.0}}
    line = {"learning_rate": 1.5e-4, "gradient_norm": 123_456.0}
    metrics = {"loss": 2.5, "compliance": 0.0, "finished": 0.5}
    return {
        "run_folder": "runs/a-rather-long-name-of-a-run-folder-that-must-wrap-on-a-phone",
        "model": "smollm2-135m-instruct",
        "rows": 1,
        "loss_rows": None,
        "metrics": {"base": metrics, "tuned": {"loss": 0.4, "compliance": 1.0, "finished": 1.0}},
        "comparison": {name: compared(metrics[name], 1.0, "better") for name in metrics},
        "against": [
            {"name": "runs/earlier", "comparison": {"compliance": compared(0.9, 1.0, "no difference")}, "verdict": "-"}
        ],
        "gate": {"passed": False, "rules": [RULE, {**RULE, "passed": True, "says": "passed", "min_gain": 0.1}]},
        "notes": ["a note"],
        "confidence": 0.95,
        "seconds": 12.0,
        "environment": {
            **{"gpu": None, "processor": "a processor", "threads": 2, "memory_bytes": 8e9, "platform": "Linux"},
            **{"python": "3.11", "dtype": "float32", "packages": {"torch": "2"}},
        },
        **stress(),
        "rules": {"base": {"opening": 0.0}, "tuned": {"opening": 1.0}},
        "training": {
            "rows": dict.fromkeys(("read", "added", "kept", "dropped", "changed", "cut"), 1),
            "tokens": {"total": 10, "trained": 5},
            "steps": 3,
            "seconds": 60.0,
            "tokens_per_second": 100.0,
            "peak_memory_bytes": 2_000_000_000,
        },
        "curve": [
            {**line, "step": step, "loss": 3.0 / step, "evaluation_loss": 1.0 if step == 3 else None}
            for step in (1, 2, 3)
        ],
        "recipe": {},
        "examples": [
            {"messages": [{"role": "user", "content": "x" * 300}], "reference": "r", "base": answer, "tuned": answer}
        ],
    }


def measured(page: Path, width: int, tmp_path: Path) -> dict[str, Any]:
    """Loads the page in a frame of that width and returns what a script in it measures."""
    script = """<script>addEventListener('load', () => {
      const page = document.documentElement, count = (what) => document.querySelectorAll(what).length;
      document.title = JSON.stringify({
        scroll: page.scrollWidth, client: page.clientWidth, bold: count('pre b'), cards: count('.card'),
        curves: [...document.querySelectorAll('svg path')].map((path) => path.getTotalLength()),
        left: Math.min(...[...document.querySelectorAll('svg text')].map((text) => text.getBBox().x)) });
    });</script>"""
    copy = tmp_path / f"page-{width}.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", script + "</body>"), encoding="utf-8")
    frame = tmp_path / f"frame-{width}.html"
    frame.write_text(
        f"<iframe src='{copy.name}' style='width:{width}px;height:800px;border:0'></iframe>"
        "<script>addEventListener('load', () => setTimeout(() => {"
        " document.body.dataset.found = frames[0].document.title; }, 300));</script>"
    )
    flags = [*FLAGS, f"--user-data-dir={tmp_path / f'profile-{width}'}", "--allow-file-access-from-files"]
    assert BROWSER is not None, "chromium is required here"
    done = subprocess.run(
        [BROWSER, *flags, "--virtual-time-budget=4000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stdout[-500:]
    result: dict[str, Any] = json.loads(found.group(1).replace("&quot;", '"'))
    return result


@pytest.mark.parametrize("page", PAGES.values())
@pytest.mark.parametrize("width", [375, 1200])
def test_the_report_fits_the_screen_and_draws_its_curve(width: int, page: str, tmp_path: Path) -> None:
    write_report(tmp_path, content())
    found = measured(tmp_path / page, width, tmp_path)
    text = (tmp_path / page).read_text(encoding="utf-8")
    said = "0.4 is under 0.95" if page == PAGES["en"] else "0.4 低于 0.95"
    assert f"compliance of cards, min 0.95: {said}" in text
    assert "compliance of cards, min 0.95, min_gain 0.1 against base</li>" in text
    assert found["client"] == width
    assert found["scroll"] <= width, "nothing sticks out to the side"
    assert len(found["curves"]) == 4, "training and held-out loss, learning rate, gradient norm"
    assert sum(length > 100 for length in found["curves"]) == 3, "held out is one point"
    assert found["left"] >= 0, "no label is cut off"
    assert found["bold"] == 0, "an answer's markup is shown, not obeyed"
    assert found["cards"] == 4, "an answer, two attacks' examples, what was forgotten"


@pytest.mark.parametrize("page", PAGES.values())
def test_a_comparison_of_runs_fits_the_screen(page: str, tmp_path: Path) -> None:
    runs = [
        {"name": f"a-long-name-of-a-run-{number}", "metrics": {"compliance": 0.5, "bleu": 31.4}, "comparison": {}}
        for number in range(3)
    ]
    for run in runs[1:]:
        run["comparison"] = {
            "compliance": compared(0.4, 0.5, "better"),
            "bleu": {**compared(30.0, 31.4, "no difference"), "style": "points"},
        }
    write_comparison(tmp_path, {"metrics": ["compliance", "bleu"], "runs": runs})
    assert measured(tmp_path / page, 375, tmp_path)["scroll"] <= 375
    text = (tmp_path / page).read_text(encoding="utf-8")
    assert text.count("50.0%") == 3
    assert text.count("31.4<") == 3
    assert text.count('class="yes"') == 2


def test_the_picture_tool_makes_a_png(tmp_path: Path) -> None:
    page, picture = tmp_path / "index.html", tmp_path / "report.png"
    write_report(tmp_path, content())
    subprocess.run(
        [sys.executable, str(ROOT / "docs" / "take_picture.py"), str(page), str(picture), "800", "600"], check=True
    )
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
