"""What adapters and aliases may be called, and how a version is named: `support@3`, `support@production`."""

from __future__ import annotations

import re

from danlu.errors import Fault, RegistryError

PRODUCTION, LATEST = "production", "latest"
RULE = "letters, digits, `.`, `_`, `-`; first a letter or digit; at most 64"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def require_name(name: str) -> str:
    """The name of an adapter, if it may be one.

    Raises:
        RegistryError: it may not.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise RegistryError(Fault(f"{name!r} can't be an adapter's name", "command line", RULE, "choose another"))
    return name


def require_alias(alias: str) -> str:
    """An alias, if it may be one: as names are, but no number and not `latest`, which name versions by themselves.

    Raises:
        RegistryError: it may not.
    """
    if not re.fullmatch(NAME_PATTERN, alias) or alias.isdigit() or alias == LATEST:
        allowed = f"{RULE}; not a number, not {LATEST}"
        raise RegistryError(Fault(f"{alias!r} can't be an alias", "command line", allowed, "as in production"))
    return alias


def split_reference(reference: str) -> tuple[str, str]:
    """Name, and what is after `@`; "" if there is none.

    Raises:
        RegistryError: it is neither `NAME`, `NAME@NUMBER` nor `NAME@ALIAS`.
    """
    name, at, which = reference.partition("@")
    if at and which != LATEST and not re.fullmatch("[0-9]{1,9}", which):
        require_alias(which)
    return require_name(name), which
