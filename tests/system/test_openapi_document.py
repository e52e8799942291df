"""Schemathesis asks the gateway whatever its OpenAPI document allows and forbids: no 500, no answer out of schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from small_gateway import Gateway

from danlu.serving.access.guard import Guard
from danlu.serving.access.journal import Journal
from danlu.serving.access.keys import Keyring, make_key
from danlu.serving.feedback.desk import FeedbackDesk
from danlu.serving.feedback.stores import JsonLines
from danlu.serving.surroundings import Surroundings

schemathesis = pytest.importorskip("schemathesis", reason="pip install 'danlu[dev]'")
OPERATIONS = {
    *("POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models", "GET /v1/models/{name}"),
    *("GET /healthz", "GET /readyz", "GET /metrics", "POST /v1/feedback", "GET /admin/status", "GET /admin/gateways"),
    *("POST /admin/promote", "POST /admin/rollback", "GET /admin/keys", "POST /admin/keys", "DELETE /admin/keys/{id}"),
}
# What takes no body takes nothing that could be wrong.
MODES = [(name, "positive") for name in sorted(OPERATIONS)]
MODES += [(name, "negative") for name in sorted(OPERATIONS) if name.startswith("POST")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("gateway")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANLU_AUDIT", str(made / "audit.jsonl"))
        yield made


@pytest.fixture(scope="module")
def secret(folder: Path) -> str:
    return make_key(folder / "keys.json", "schemathesis", ["admin"])[0]


@pytest.fixture(scope="module")
def operations(tokenizer: Any, folder: Path, secret: str) -> Iterator[dict[str, Any]]:
    feedback = FeedbackDesk(JsonLines(folder / "feedback.jsonl"))
    around = Surroundings(Guard(Keyring(folder / "keys.json"), journal=Journal("one")), feedback)
    gateway = Gateway(tokenizer, max_body_bytes=4 << 20, around=around)
    document = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
    found = [operation.ok() for operation in document.get_all_operations()]
    yield {f"{operation.method.upper()} {operation.path}": operation for operation in found}
    gateway.close()


def test_the_document_has_all_operations(operations: dict[str, Any]) -> None:
    assert operations.keys() == OPERATIONS


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_each_operation_keeps_to_the_document(operations: dict[str, Any], secret: str, name: str, mode: str) -> None:
    excluded = [schemathesis.checks.ignored_auth] if hasattr(schemathesis.checks, "ignored_auth") else []

    @given(case=operations[name].as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    @settings(max_examples=100 if name.startswith("POST /v1/c") else 20, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(timeout=20, headers={"authorization": f"Bearer {secret}"}, excluded_checks=excluded)

    check()
