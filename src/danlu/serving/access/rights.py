"""Which role each route asks for: the one table, as it stands in docs/en/deployment.md too."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from re import Pattern

from starlette.routing import compile_path

from danlu.serving.access.keys import Role


@dataclass(frozen=True)
class Right:
    """What one route asks for.

    Attributes:
        method: of HTTP.
        path: as the application declares it.
        role: None: anybody may, without a key.
        counted: whether it counts as one of the key's requests.
        audited: whether each request is an entry of the audit log.
    """

    method: str
    path: str
    role: Role | None
    counted: bool = False
    audited: bool = False

    @cached_property
    def pattern(self) -> Pattern[str]:
        """That a request's path matches."""
        return compile_path(self.path)[0]


RIGHTS = (
    Right("POST", "/v1/chat/completions", "use", counted=True, audited=True),
    Right("POST", "/v1/completions", "use", counted=True, audited=True),
    Right("GET", "/v1/models", "use", audited=True),
    Right("GET", "/v1/models/{name:path}", "use", audited=True),
    Right("POST", "/v1/feedback", "feedback", counted=True, audited=True),
    Right("GET", "/metrics", "operate"),
    Right("GET", "/admin/status", "operate"),
    Right("GET", "/admin/gateways", "operate"),
    Right("POST", "/admin/promote", "operate", audited=True),
    Right("POST", "/admin/rollback", "operate", audited=True),
    Right("GET", "/admin/keys", "admin", audited=True),
    Right("POST", "/admin/keys", "admin", audited=True),
    Right("DELETE", "/admin/keys/{id}", "admin", audited=True),
    Right("GET", "/healthz", None),
    Right("GET", "/readyz", None),
    Right("GET", "/openapi.json", None),
    Right("GET", "/", None),
    Right("GET", "/playground", None),
    Right("GET", "/playground/{path:path}", None),
    Right("GET", "/dashboard", None),
    Right("GET", "/dashboard/{path:path}", None),
)
# What is not there is told to those alone who may ask anything.
_ELSE = Right("", "other", "use")


def right_of(method: str, path: str) -> Right:
    """What a request asks for; HEAD is a GET."""
    method = "GET" if method == "HEAD" else method
    for right in RIGHTS:
        if right.method == method and right.pattern.fullmatch(path):
            return right
    return _ELSE
