"""Which adapter a scenario goes to: rules under a virtual model name, from a small YAML file.

    routes:
      - name: assistant
        rules:
          - {header: x-department, equals: legal, model: law}
          - {prefix: "/law", model: law}
          - {keywords: [contract, 合同], model: law@candidate}
        default: support

The first rule that fits decides. Prefix and keywords are looked for in the last message of the user, without regard
to case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from danlu.errors import Fault, InputError

_Text = Annotated[str, Field(min_length=1)]


class Rule(BaseModel):
    """What must hold, and the model that answers then."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: _Text
    header: _Text | None = None
    equals: str | None = None
    prefix: _Text | None = None
    keywords: tuple[_Text, ...] = ()

    @model_validator(mode="after")
    def _has_one_condition(self) -> Rule:
        if sum((self.header is not None, self.prefix is not None, bool(self.keywords))) != 1:
            raise ValueError("a rule has one of header (with equals), prefix, keywords")
        if (self.header is None) != (self.equals is None):
            raise ValueError("header and equals go together")
        return self

    def fits(self, headers: Mapping[str, str], text: str) -> bool:
        """Whether it holds.

        Args:
            headers: of the request, names in lower case.
            text: the user's last message.
        """
        if self.header is not None:
            return headers.get(self.header.lower()) == self.equals
        lower = text.lower()
        if self.prefix is not None:
            return lower.lstrip().startswith(self.prefix.lower())
        return any(word.lower() in lower for word in self.keywords)


class Route(BaseModel):
    """A virtual model."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: _Text
    rules: tuple[Rule, ...] = ()
    default: _Text


class _Routes(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    routes: tuple[Route, ...]


class Routes:
    """All virtual models.

    Args:
        routes: in any order.
    """

    def __init__(self, routes: Sequence[Route] = ()) -> None:
        self._routes = {route.name: route for route in routes}

    @property
    def names(self) -> list[str]:
        """The virtual names."""
        return list(self._routes)

    @property
    def models(self) -> set[str]:
        """The names that they lead to."""
        return {
            model for route in self._routes.values() for model in (route.default, *(rule.model for rule in route.rules))
        }

    def choose(self, model: str, headers: Mapping[str, str], text: Callable[[], str]) -> str:
        """The model that answers; one that is not virtual is itself."""
        route = self._routes.get(model)
        if route is None:
            return model
        said = text()
        return next((rule.model for rule in route.rules if rule.fits(headers, said)), route.default)


def read_routes(path: Path) -> Routes:
    """The routes of a file.

    Raises:
        InputError: it can't be read, or holds something else; all faults at once.
    """
    hint = "see docs/en/serving.md for the form"
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        routes = _Routes.model_validate(content).routes
    except ValidationError as error:
        raise InputError(
            *(
                Fault(str(fault["msg"]), f"{path}: {'.'.join(map(str, fault['loc']))}", hint=hint)
                for fault in error.errors()
            )
        ) from error
    except (OSError, ValueError, YAMLError) as error:
        raise InputError(Fault(f"the routes can't be read: {error}", str(path), hint=hint)) from error
    names = [route.name for route in routes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(Fault(f"two routes are named {twice[0]}", str(path), hint="give each its own name"))
    return Routes(routes)
