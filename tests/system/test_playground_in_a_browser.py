"""The playground in a real browser, over a real gateway: an adapter is picked, answers stream side by side."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import Served
from served_runs import NUM_TOKENS, QUESTIONS, expected_answers, write_run

sync_api = pytest.importorskip("playwright.sync_api")

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
pytestmark = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"), reason="chromium is not installed"
)


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "law", tiny_base, 0)


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Served]:
    served = Served(str(run))
    served.until(lambda: served.ready()["status"] == "ok")
    yield served
    served.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield opened
        opened.close()


def opened(browser: Any, server: Served, language: str, width: int) -> Any:
    """The page, which must have no fault of its own."""
    page = browser.new_context(locale=language, viewport={"width": width, "height": 800}).new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.faults.append(said.text))
    page.goto(server.url)
    page.wait_for_selector("#left option", state="attached")
    return page


def ask(page: Any, question: str) -> list[str]:
    """The answers to a question, from the left."""
    page.evaluate(f"document.getElementById('longest').value = {NUM_TOKENS}")
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.wait_for_selector("#send:not([hidden])")
    turn = page.locator(".turn").last
    return [str(turn.locator(".text").nth(place).inner_text()) for place in range(turn.locator(".answer").count())]


def test_base_and_tuned_answer_side_by_side_as_the_run_does(browser: Any, server: Served, run: Path) -> None:
    page = opened(browser, server, "en-US", 1200)
    assert page.url.endswith("/playground")
    page.select_option("#left", "tiny_base0")
    page.select_option("#right", "law")
    tuned, base = expected_answers(run, QUESTIONS[1])
    assert tuned != base
    with page.expect_response(lambda response: "completions" in response.url) as streamed:
        said = ask(page, QUESTIONS[1])
    assert streamed.value.headers["content-type"].startswith("text/event-stream")
    assert [one.strip() for one in said] == [base.strip(), tuned.strip()]
    names = [one.strip() for one in page.locator(".model").all_inner_texts()]
    assert names[1] == "law · law@1"
    left, right = (page.locator(".answer").nth(place).bounding_box() for place in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    assert f"{NUM_TOKENS} tokens" in page.locator(".figures").first.inner_text()
    assert page.faults == []


def test_on_a_phone_in_chinese_it_fits_and_a_talk_goes_on(browser: Any, server: Served, run: Path) -> None:
    page = opened(browser, server, "zh-CN", 375)
    assert page.inner_text("#send") == "发送"
    page.select_option("#left", "law")
    ask(page, "<b>您好</b> " + "x" * 200)
    sent: list[Any] = []
    page.on("request", lambda request: "completions" in request.url and sent.append(request.post_data_json))
    ask(page, QUESTIONS[2])
    assert [turn["role"] for turn in sent[0]["messages"]] == ["user", "assistant", "user"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator(".turn b").count() == 0
    page.click("#language")
    assert page.inner_text("#send") == "Send"
    assert page.faults == []


def test_what_the_gateway_refuses_is_told_and_the_talk_can_go_on(browser: Any, server: Served) -> None:
    page = opened(browser, server, "en-US", 1200)
    page.select_option("#left", "law")
    page.evaluate("document.getElementById('longest').value = 30000")
    page.fill("#question", "too long")
    page.press("#question", "Enter")
    page.wait_for_selector(".failed")
    assert "30000 of the answer" in page.locator(".figures").inner_text()
    assert len(ask(page, "Hi")) == 1
    assert page.locator(".failed").count() == 1


def test_the_page_may_load_nothing_from_elsewhere(server: Served) -> None:
    page = httpx.get(f"{server.url}/playground")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("playground.css", "playground.js", "words.js"):
        assert httpx.get(f"{server.url}/playground/{name}").status_code == 200
    assert httpx.get(f"{server.url}/playground/%2e%2e/gateway.py").status_code == 404
