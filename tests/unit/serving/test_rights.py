"""Every route is asked with every role: 403 wherever the table says so, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_gateway import Gateway

from danlu.serving.access.guard import Guard
from danlu.serving.access.keys import ROLES, Keyring, make_key
from danlu.serving.access.rights import RIGHTS, Right
from danlu.serving.feedback.desk import FeedbackDesk
from danlu.serving.feedback.stores import JsonLines
from danlu.serving.surroundings import Surroundings

ASK = {"model": "law", "messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0}
DOCS = Path(__file__).parents[3] / "docs"


class Keyed(Gateway):
    """A gateway with a key of each role, and one for a single model."""

    def __init__(self, tokenizer: Any, folder: Path) -> None:
        self.file = folder / "keys.json"
        self.secrets = {role: make_key(self.file, role, [role])[0] for role in ROLES}
        self.secrets["law alone"] = make_key(self.file, "law alone", ["use"], ["law"])[0]
        guard = Guard(Keyring(self.file))
        super().__init__(
            tokenizer, around=Surroundings(guard, FeedbackDesk(JsonLines(folder / "feedback.jsonl")), name="one")
        )

    def ask(self, who: str | None, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.secrets[who]}"} if who else {}
        return self.http.request(method, path, headers=headers, **more)


@pytest.fixture(scope="module")
def gateway(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("keyed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANLU_AUDIT", str(folder / "audit.jsonl"))
        made = Keyed(tokenizer, folder)
        yield made
        made.close()


def path_of(right: Right) -> str:
    return right.path.replace("{name:path}", "law").replace("{path:path}", "words.js").replace("{id}", "0123456789")


def test_the_table_has_every_route_of_the_application(gateway: Gateway) -> None:
    app = gateway.server.config.app.app
    routes = {(method, route.path) for route in app.routes for method in getattr(route, "methods", None) or ["mount"]}
    declared = {
        (method, path)
        for method, path in routes
        if method not in ("HEAD", "OPTIONS", "mount") and path not in ("/docs", "/redoc")
    }
    declared |= {("GET", f"{path}/{{path:path}}") for method, path in routes if method == "mount"}
    assert declared == {(right.method, right.path) for right in RIGHTS}


@pytest.mark.parametrize("right", RIGHTS, ids=lambda right: f"{right.method} {right.path}")
@pytest.mark.parametrize("who", [None, *ROLES])
def test_each_route_lets_in_whom_the_table_lets_in(gateway: Keyed, right: Right, who: str | None) -> None:
    status = gateway.ask(who, right.method, path_of(right), follow_redirects=False).status_code
    if right.role is None or who in (right.role, "admin"):
        assert status not in (401, 403)
    else:
        assert status == (401 if who is None else 403)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_in_the_guide_is_the_table(language: str) -> None:
    text = (DOCS / language / "deployment.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([A-Z]+ [^`]+)` \| (\w+|–) \|", text, re.MULTILINE))
    assert told == {f"{right.method} {re.sub(':path', '', right.path)}": right.role or "–" for right in RIGHTS}


def test_a_path_that_is_none_is_told_to_those_alone_who_may_ask(gateway: Keyed) -> None:
    assert gateway.ask(None, "GET", "/v2/nothing").status_code == 401
    assert gateway.ask("use", "GET", "/v2/nothing").status_code == 404


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("", "a key is needed"),
        ("Bearer", "a key is needed"),
        ("Basic dXNlcjpwYXNz", "a key is shown as Authorization: Bearer"),
        ("Bearer sk-123", "this is no key of Danlu's"),
        ("Bearer danlu-0123456789-" + "a" * 43, "there is no such key"),
    ],
)
def test_what_is_no_key_is_told_so_in_openai_s_shape(gateway: Gateway, header: str, said: str) -> None:
    answer = gateway.http.post("/v1/chat/completions", json=ASK, headers={"authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert said in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_a_key_is_known_before_a_large_body_is_read(gateway: Keyed) -> None:
    body = b" " * 200_000
    assert gateway.ask(None, "POST", "/v1/chat/completions", content=body).status_code == 401
    assert gateway.ask("use", "POST", "/v1/chat/completions", content=body).status_code == 413


def test_a_key_for_one_model_sees_and_asks_no_other(gateway: Keyed) -> None:
    listed = gateway.ask("law alone", "GET", "/v1/models").json()["data"]
    assert [one["id"] for one in listed] == ["law"]
    assert gateway.ask("law alone", "GET", "/v1/models/support").status_code == 404
    for model, status in {"law": 200, "law@1": 200, "support": 403, "base": 403, "assistant": 403}.items():
        asked = gateway.ask("law alone", "POST", "/v1/chat/completions", json={**ASK, "model": model})
        assert asked.status_code == status, model
    assert "it may ask law" in asked.json()["error"]["message"]


def test_an_administrator_makes_and_ends_keys(gateway: Keyed) -> None:
    made = gateway.ask("admin", "POST", "/admin/keys", json={"name": "new", "roles": ["use"]}).json()
    gateway.secrets["new"] = made["secret"]
    assert gateway.ask("new", "GET", "/v1/models").status_code == 200
    listed = gateway.ask("admin", "GET", "/admin/keys").json()["keys"]
    assert made["key"] in listed
    assert all("sha256" not in key for key in listed)
    assert gateway.ask("admin", "DELETE", f"/admin/keys/{made['key']['id']}").json()["key"]["revoked"]
    refused = gateway.ask("new", "GET", "/v1/models")
    assert refused.status_code == 401
    assert "was revoked at" in refused.json()["error"]["message"]
    assert gateway.ask("admin", "DELETE", "/admin/keys/nothing").status_code == 404


def test_who_may_not_operate_sees_no_faults(gateway: Keyed) -> None:
    gateway.shelf._faults["law"] = "law@2 misses its probes"
    try:
        assert gateway.ask(None, "GET", "/readyz").json()["faults"] == []
        assert gateway.ask("operate", "GET", "/admin/status").json()["faults"] == ["law@2 misses its probes"]
    finally:
        gateway.shelf._faults.clear()
