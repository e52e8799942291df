"""Schemathesis asks the gateway whatever its OpenAPI document allows and forbids: no 500, no answer out of schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from small_gateway import Gateway

schemathesis = pytest.importorskip("schemathesis", reason="pip install 'danlu[dev]'")
OPERATIONS = {
    *("POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models", "GET /v1/models/{name}"),
    *("GET /healthz", "GET /readyz", "GET /metrics"),
}


@pytest.fixture(scope="module")
def operations(tokenizer: Any) -> Iterator[dict[str, Any]]:
    gateway = Gateway(tokenizer, max_body_bytes=4 << 20)
    document = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
    found = [operation.ok() for operation in document.get_all_operations()]
    yield {f"{operation.method.upper()} {operation.path}": operation for operation in found}
    gateway.close()


def test_the_document_has_all_operations(operations: dict[str, Any]) -> None:
    assert operations.keys() == OPERATIONS


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_each_operation_keeps_to_the_document(operations: dict[str, Any], name: str, mode: str) -> None:
    if mode == "negative" and not name.startswith("POST"):
        pytest.skip("it takes nothing that could be wrong")

    @given(case=operations[name].as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    @settings(max_examples=100 if name.startswith("POST") else 10, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(timeout=20)

    check()
