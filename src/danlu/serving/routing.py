"""Which adapter a scenario goes to: rules under a virtual model name, from a small YAML file.

    routes:
      - name: assistant
        rules:
          - {header: x-department, equals: legal, model: law}
          - {prefix: "/law", model: law}
          - {keywords: [contract, 合同], model: law@candidate}
          - classifier: {law: [May he raise the rent?, ...], medicine: [My head aches, ...], support: [...]}
            min_confidence: 0.6
        default: support

The first rule that fits decides. All but headers are looked for in the last message of the user, without regard to
case. A classifier may also be the path of a YAML or JSON file with the same mapping, beside the routes' own file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from danlu.errors import Fault, InputError
from danlu.serving.scenarios import MIN_EXAMPLES, Scenarios

_YAML = YAML(typ="safe")
_Text = Annotated[str, Field(min_length=1)]


class Rule(BaseModel):
    """What must hold, and the model that answers then."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: _Text | None = None
    header: _Text | None = None
    equals: str | None = None
    prefix: _Text | None = None
    keywords: tuple[_Text, ...] = ()
    classifier: dict[_Text, tuple[_Text, ...]] = {}
    min_confidence: Annotated[float, Field(gt=0, lt=1)] = 0.6

    @field_validator("classifier", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return _YAML.load((info.context or Path()).joinpath(value).read_text(encoding="utf-8"))
        except (OSError, ValueError, YAMLError) as error:
            raise ValueError(f"the examples can't be read: {error}") from error

    @model_validator(mode="after")
    def _has_one_condition(self) -> Rule:
        if sum((self.header is not None, self.prefix is not None, bool(self.keywords), bool(self.classifier))) != 1:
            raise ValueError("a rule has one of header (with equals), prefix, keywords, classifier")
        if (self.header is None) != (self.equals is None):
            raise ValueError("header and equals go together")
        if (self.model is None) != bool(self.classifier):
            raise ValueError("a rule has a model; a classifier has its models as the names of its examples")
        if self.classifier and (len(self.classifier) < 2 or min(map(len, self.classifier.values())) < MIN_EXAMPLES):
            raise ValueError(f"a classifier has examples of two models or more, {MIN_EXAMPLES} of each at least")
        return self

    @functools.cached_property
    def scenarios(self) -> Scenarios:
        """The classifier, fitted."""
        return Scenarios(self.classifier)

    @property
    def models(self) -> list[str]:
        """The names that it leads to."""
        return [*self.classifier] if self.model is None else [self.model]

    def chosen(self, headers: Mapping[str, str], text: str) -> str | None:
        """The model that answers, if it holds.

        Args:
            headers: of the request, names in lower case.
            text: the user's last message.
        """
        if self.model is None:
            name, confidence = self.scenarios.likeliest(text)
            return name if confidence >= self.min_confidence else None
        return self.model if self._fits(headers, text) else None

    def _fits(self, headers: Mapping[str, str], text: str) -> bool:
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
            model
            for route in self._routes.values()
            for model in (route.default, *(name for rule in route.rules for name in rule.models))
        }

    def choose(self, model: str, headers: Mapping[str, str], text: Callable[[], str]) -> str:
        """The model that answers; one that is not virtual is itself."""
        route = self._routes.get(model)
        if route is None:
            return model
        said = text()
        return next((name for rule in route.rules if (name := rule.chosen(headers, said))), route.default)


def read_routes(path: Path) -> Routes:
    """The routes of a file.

    Raises:
        InputError: it can't be read, or holds something else; all faults at once.
    """
    hint = "see docs/en/serving.md for the form"
    try:
        content = _YAML.load(path.read_text(encoding="utf-8"))
        routes = _Routes.model_validate(content, context=path.parent).routes
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
    for rule in (rule for route in routes for rule in route.rules if rule.classifier):
        assert rule.scenarios, "fitted before the first request"
    return Routes(routes)
