"""What those who run the gateway ask of it: how it is, which version an alias names, and who has a key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from danlu.registry import Registry
from danlu.serving.access.guard import account_of
from danlu.serving.access.keys import make_key, read_keys, revoke_key
from danlu.serving.desk import Desk
from danlu.serving.protocol import NewKey, Promotion, Rollback
from danlu.serving.refusals import REFUSALS, Refusal, json_response

_Object = dict[str, Any]


def add_administration(app: FastAPI, desk: Desk) -> None:
    """Adds `/admin/...`."""
    _add_status(app, desk)
    _add_aliases(app, desk)
    _add_keys(app, desk)


def _add_status(app: FastAPI, desk: Desk) -> None:
    @app.get("/admin/status", response_model=_Object, responses=REFUSALS)
    async def status() -> Response:
        """What is served, what is not and why, and whether the audit log can be written."""
        journal = desk.guard.journal
        return json_response(
            {
                "gateway": desk.name,
                "status": desk.status,
                "served": desk.shelf.served(),
                "loaded": desk.shelf.loaded,
                "faults": [*desk.shelf.faults, *([journal.fault] if journal and journal.fault else [])],
                "visits": desk.visits,
            }
        )

    @app.get("/admin/gateways", response_model=_Object, responses=REFUSALS)
    async def gateways() -> Response:
        """Figures of all gateways that share a Redis, by name, as each told them to Prometheus last."""
        return json_response({"gateways": await desk.neighbours.all()})


def _add_aliases(app: FastAPI, desk: Desk) -> None:
    async def changed(request: Request, change: Callable[[Registry], _Object]) -> Response:
        catalogue: object = desk.shelf.catalogue
        if not isinstance(catalogue, Registry):
            raise Refusal(404, "this gateway serves run folders; aliases are a registry's")
        result = await asyncio.to_thread(change, catalogue)
        await asyncio.to_thread(desk.shelf.refresh)
        account_of(request.scope).about |= {key: result[key] for key in ("reference", "alias") if key in result}
        return json_response(result)

    @app.post("/admin/promote", response_model=_Object, responses=REFUSALS)
    async def promote(asked: Promotion, request: Request) -> Response:
        """Lets an alias name a version."""
        return await changed(request, lambda registry: registry.promote(asked.reference, asked.alias))

    @app.post("/admin/rollback", response_model=_Object, responses=REFUSALS)
    async def rollback(asked: Rollback, request: Request) -> Response:
        """Lets an alias name what it named before."""
        return await changed(request, lambda registry: registry.rollback(asked.name, asked.alias))


def _add_keys(app: FastAPI, desk: Desk) -> None:
    def keyring() -> Any:
        if desk.guard.keyring is None:
            raise Refusal(404, "this gateway asks for no keys")
        return desk.guard.keyring

    @app.get("/admin/keys", response_model=_Object, responses=REFUSALS)
    async def keys() -> Response:
        """All keys, without their secrets."""
        return json_response({"keys": [key.shown() for key in read_keys(keyring().path)]})

    @app.post("/admin/keys", status_code=201, response_model=_Object, responses=REFUSALS)
    async def create(asked: NewKey, request: Request) -> Response:
        """Makes a key; it is told here and never again."""
        by = account_of(request.scope).key
        told = asked.model_dump()
        secret, key = await asyncio.to_thread(make_key, keyring().path, **told, by=by.id if by else None)
        account_of(request.scope).about["about_key"] = key.id
        return json_response({"secret": secret, "key": key.shown()}, 201)

    @app.delete("/admin/keys/{id}", response_model=_Object, responses=REFUSALS)
    async def revoke(id: str, request: Request) -> Response:
        """Ends a key for good."""
        path, by = keyring().path, account_of(request.scope).key
        if all(key.id != id for key in read_keys(path)):
            raise Refusal(404, f"no key has the id {id[:40]!r}")
        key = await asyncio.to_thread(revoke_key, path, id, by.id if by else None)
        account_of(request.scope).about["about_key"] = key.id
        return json_response({"key": key.shown()})
