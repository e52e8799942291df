"""The data report in a real browser: hostile rows are shown and not obeyed, it fits a phone, the sums are seen."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from danlu.data.report import DataFacts, length_histogram, write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--no-first-run", "--hide-scrollbars", "--allow-file-access-from-files",
         "--enable-logging=stderr", "--virtual-time-budget=4000"]  # fmt: skip
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
OWNED = "<script>document.title = 'owned'</script><img src='x' onerror=\"document.title = 'owned'\">"
LONG = "x" * 100_000
UNSEEN = "a\u202eb\u2066c\u200bd\x00e\x1bf\ud800g"

pytestmark = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"), reason="chromium is not installed"
)


def hostile() -> DataFacts:
    nasty = OWNED + UNSEEN + LONG
    examples = [
        {"where": nasty, "before": nasty, "after": UNSEEN + OWNED + "长" * 100_000},
        {"where": "b", "before": "</pre></main></body><style>* { display: none }</style>", "after": "</pre>"},
        {"where": "c", "before": "{{ 7 * 7 }}{% raw %}", "after": ""},
    ]
    return DataFacts(
        recipe=nasty,
        rows={"read": 1_000_001, "added": 0, "kept": 999_991, "dropped": 10, "changed": 5, "cut": 1},
        tokens={"total": 123_456_789_012, "trained": 99_999_999_999},
        max_sequence_tokens=131_072,
        prepared_folder=nasty[:4_000],
        seconds=98_765.4,
        created=nasty[:200],
        inputs=[{"path": nasty, "encoding": "utf-8<b>", "rows": 1_000_001, "bytes": 10**13}],
        splits={nasty: {"rows": 999_991, "documents": 10**6, "tokens": 123_456_789_012, "trained_tokens": 10**11 - 1}},
        formats={nasty: 3},
        languages={f"{number}{nasty}": number for number in range(100)},
        classes={f"{number}{nasty[:999]}": {"before": 1000 * number, "after": number} for number in range(1000)},
        steps=[{"step": nasty, "rows_in": 1_000_001, "changed": 10**6, "dropped": 2, "seconds": 98_765.4}] * 5,
        reasons=[
            {"outcome": outcome, "step": nasty, "reason": f"{number}{nasty}", "count": 1, "examples": examples}
            for outcome in ("dropped", "changed", "cut", "added")
            for number in range(10)
        ],
        histogram=length_histogram(np.array([*range(1, 1000), 131_072]), 131_072),
        masked={nasty: 1},
    )


def small() -> DataFacts:
    rows = {"read": 10, "added": 2, "kept": 11, "dropped": 1, "changed": 0, "cut": 0}
    return DataFacts(
        recipe="银行客服.yaml",
        rows=rows,
        tokens={"total": 900, "trained": 400},
        max_sequence_tokens=512,
        prepared_folder="/prepared/abc",
        seconds=1.0,
        created="2025-11-22",
        inputs=[{"path": "客服.jsonl", "encoding": "gb18030", "rows": 10, "bytes": 999}],
        splits={"train": {"rows": 11, "documents": 11, "tokens": 900, "trained_tokens": 400}},
        reasons=[{"outcome": "dropped", "step": "reading", "reason": "missing answer", "count": 1, "examples": []}],
        histogram=length_histogram(np.array([40, 50, 512]), 512),
    )


def nothing() -> DataFacts:
    rows = dict.fromkeys(("read", "added", "kept", "dropped", "changed", "cut"), 0)
    return DataFacts("r.yaml", rows, {"total": 0, "trained": 0}, 512, "/prepared", 0.0, "now")


def loaded(page: Path, width: int, tmp_path: Path) -> dict[str, Any]:
    """Loads the page in a frame of that width; what the frame around it measures, and what the console said."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe src='{page.name}' style='width:{width}px;height:800px;border:0'></iframe><script>"
        """addEventListener('load', () => setTimeout(() => {
          const page = frames[0].document, root = page.documentElement;
          const all = (what) => [...page.querySelectorAll(what)];
          page.querySelectorAll('details').forEach((part) => { part.open = true; });
          const inside = (part) => part.closest('.wide, svg');
          document.body.dataset.found = encodeURIComponent(JSON.stringify({
            title: page.title, scroll: root.scrollWidth, client: root.clientWidth, text: page.body.innerText,
            scripts: all('script, img, b b, main style').length, height: page.querySelector('main').offsetHeight,
            outside: all('main *').filter((part) => !inside(part) &&
              part.getBoundingClientRect().right > root.clientWidth + 1).map((part) => part.outerHTML.slice(0, 80)),
            labels: all('svg text').filter((text) => text.getBBox().x < 0 ||
              text.getBBox().x + text.getBBox().width > 640).length,
            limit: all('line.limit').length, totals: all('tr.total, .reason.total').map((row) => row.innerText) }));
        }, 300));</script>"""
    )
    assert BROWSER is not None, "chromium is required here"
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    result: dict[str, Any] = json.loads(unquote(found.group(1)))
    return {**result, "console": [line for line in done.stderr.splitlines() if "CONSOLE" in line]}


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("facts", [hostile, small, nothing])
def test_nothing_sticks_out_and_nothing_is_said_on_the_console(facts: Any, width: int, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", facts())
    found = loaded(tmp_path / "report.html", width, tmp_path)
    assert found["client"] == width
    assert found["scroll"] <= width
    assert found["outside"] == []
    assert found["labels"] == 0
    assert found["console"] == []


def test_a_row_is_never_obeyed_even_without_the_policy(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(page, hostile())
    text, removed = POLICY.subn("", page.read_text(encoding="utf-8"))
    assert removed == 1
    page.write_text(text, encoding="utf-8")
    found = loaded(page, 1200, tmp_path)
    assert found["title"].startswith("Danlu data: <script>")
    assert found["scripts"] == 0
    assert found["height"] > 1000, "the row's style does not hide the page"
    assert OWNED in found["text"]
    assert "a[U+202E]b[U+2066]c[U+200B]d[U+0000]e[U+001B]f[U+D800]g" in found["text"]
    assert "{{ 7 * 7 }}{% raw %}" in found["text"]


def test_a_script_would_be_seen_and_the_policy_stops_it(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(page, small())
    broken = page.read_text(encoding="utf-8").replace("</main>", OWNED + "</main>")
    page.write_text(broken, encoding="utf-8")
    stopped = loaded(page, 1200, tmp_path)
    assert stopped["title"] == "Danlu data: 银行客服.yaml"
    assert stopped["console"], "the console's words reach the test"
    page.write_text(POLICY.sub("", broken), encoding="utf-8")
    assert loaded(page, 1200, tmp_path)["title"] == "owned"


def test_the_sums_and_the_limit_are_seen(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", small())
    found = loaded(tmp_path / "report.html", 360, tmp_path)
    assert "Every row is accounted for: 10 read + 2 added = 11 kept + 1 dropped." in found["text"]
    assert "✗" not in found["text"]
    assert [row.split() for row in found["totals"]] == [
        ["All", "1", "8.3%"], ["All", "3"], ["All", "11", "900", "400"], ["All", "10", "999", "B"],
    ]  # fmt: skip
    assert found["limit"] == 1
