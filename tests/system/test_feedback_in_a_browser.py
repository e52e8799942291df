"""In a real browser: an answer is streamed and corrected; the masked correction is exported, and trained on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served
from served_runs import NUM_TOKENS, write_run
from small_runs import train, write_recipe

sync_api = pytest.importorskip("playwright.sync_api")

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
pytestmark = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"), reason="chromium is not installed"
)


def danlu(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "danlu", *words, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def served(tiny_base: Path, home: Path) -> Iterator[Served]:
    run = write_run(home / "runs" / "law", tiny_base, 0)
    files = {"DANLU_AUDIT": str(home / "audit.jsonl"), "DANLU_KEYS": str(home / "keys.json")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in files.items():
            patch.setenv(name, value)
        secret = danlu("keys", "create", "--name", "browser", "--role", "admin")["secret"]
        made = Served(str(run), "--keys", files["DANLU_KEYS"], "--feedback", str(home / "feedback.jsonl"))
        made.secret = secret
        yield made
        made.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield opened
        opened.close()


def opened(browser: Any, url: str, language: str, width: int, secret: str) -> Any:
    context = browser.new_context(locale=language, viewport={"width": width, "height": 900})
    context.add_init_script(f"sessionStorage.setItem('key', {secret!r})")
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(url)
    return page


def picture(page: Any, name: str) -> None:
    if folder := os.environ.get("DANLU_PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


@pytest.mark.parametrize(("language", "width"), [("zh-CN", 375), ("en-US", 1200)])
def test_an_answer_is_corrected_exported_masked_and_trained_on(
    browser: Any, served: Any, home: Path, tiny_base: Path, tmp_path: Path, language: str, width: int
) -> None:
    page = opened(browser, served.url, language, width, served.secret)
    page.wait_for_selector("#left option[value=law]", state="attached")
    page.evaluate(f"document.getElementById('longest').value = {NUM_TOKENS}")
    page.fill("#question", f"When is my parcel coming? ({language})")
    page.press("#question", "Enter")
    page.wait_for_selector(".answer .feedback:not([hidden])")
    page.click(".feedback .correct")
    area = page.locator(".correction textarea")
    assert area.input_value() == page.locator(".answer .text").first.text_content()
    area.fill("Tomorrow. Call 13812345678 or write to jane.doe@example.com.")
    picture(page, f"correction-{language}-{width}")
    page.click(".correction button")
    page.wait_for_selector(".thanks:not(:empty)")
    (masked,) = re.findall(r"\d+", page.locator(".thanks").first.text_content())
    assert int(masked) >= 2
    assert page.locator(".correction").first.is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture(page, f"corrected-{language}-{width}")
    assert not page.faults
    rows = danlu("feedback", "export", "--from", str(home / "feedback.jsonl"), "--out", str(tmp_path / "rows"))
    assert rows["rows"]["sft"] >= 1
    text = (tmp_path / "rows" / "sft.jsonl").read_text()
    assert "Call <MOBILE_1> or write to <EMAIL_1>." in text
    assert "13812345678" not in text
    if width == 1200:
        recipe = write_recipe(tmp_path, tiny_base)
        files = json.dumps([str(tmp_path / "rows" / "sft.jsonl")])
        alone = ["training.max_steps=1", "data.evaluation=null", "training.global_batch_size=1"]
        assert train(recipe, tmp_path / "run", f"data.train={files}", *alone)["steps"] == 1


@pytest.mark.parametrize(("language", "width"), [("zh-CN", 375), ("en-US", 1200)])
def test_the_dashboard_shows_the_gateway_s_figures(browser: Any, served: Any, language: str, width: int) -> None:
    page = opened(browser, f"{served.url}/dashboard", language, width, served.secret)
    page.wait_for_selector(".gateway dd")
    text = page.inner_text(".gateway")
    assert "tiny_base0" in text
    assert ("首字延迟" if language == "zh-CN" else "First token") in text
    assert "NaN" not in text
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture(page, f"dashboard-{language}-{width}")
    assert not page.faults


def test_the_dashboard_asks_for_a_key_that_may_operate(browser: Any, served: Any) -> None:
    secret = danlu("keys", "create", "--name", "user")["secret"]
    page = opened(browser, f"{served.url}/dashboard", "en-US", 1200, secret)
    page.wait_for_selector("#notice:not([hidden])")
    assert page.inner_text("#notice") == "Enter a key with the role operate."
