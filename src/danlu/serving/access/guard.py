"""Who comes in: a request's key, its role and its quota, before anything of the body is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.serving.access.allowance import Allowance, Taken
from danlu.serving.access.journal import Account, Journal
from danlu.serving.access.keys import ANYBODY, Key, Keyring
from danlu.serving.access.rights import Right
from danlu.serving.refusals import Refusal


class Guard:
    """Lets requests in.

    Args:
        keyring: None: whoever reaches the gateway may do all.
        allowance: the keys' quotas.
        journal: None: requests are not told to the audit log.
    """

    def __init__(
        self, keyring: Keyring | None = None, allowance: Allowance | None = None, journal: Journal | None = None
    ) -> None:
        self.keyring, self.allowance, self.journal = keyring, allowance or Allowance(), journal

    async def admit(self, right: Right, headers: Mapping[str, str], account: Account) -> None:
        """Notes whose request it is.

        Raises:
            Refusal: it has no key, its key may not, or has asked too much already.
        """
        if self.keyring is None or right.role is None:
            account.key = ANYBODY if self.keyring is None else None
        else:
            account.key = key = self._key(headers)
            if not key.may(right.role):
                what = f"this key may not do that: it needs the role {right.role}, and has {', '.join(key.roles)}"
                raise Refusal(403, what)
        if right.audited and self.journal is not None and self.journal.fault:
            raise Refusal(503, self.journal.fault)
        if right.counted and account.key is not None:
            taken = await self.allowance.take_request(account.key)
            refuse_over(taken, f"{account.key.requests_per_minute} requests a minute")

    def _key(self, headers: Mapping[str, str]) -> Key:
        assert self.keyring is not None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if not shown.strip():
            raise Refusal(401, "a key is needed: Authorization: Bearer danlu-ID-SECRET", code="invalid_api_key")
        if scheme.lower() != "bearer":
            raise Refusal(401, "a key is shown as Authorization: Bearer danlu-ID-SECRET", code="invalid_api_key")
        key, why = self.keyring.find(shown.strip())
        if key is None:
            raise Refusal(401, why, code="invalid_api_key")
        return key


def refuse_over(taken: Taken | None, quota: str) -> None:
    """Refuses what goes over a quota.

    Raises:
        Refusal: with when to come back.
    """
    if taken is not None and not taken.fits:
        again = max(1, taken.seconds_left)
        what = f"the quota of this key is {quota}; come back in {again} s"
        raise Refusal(429, what, code="quota_exceeded", again_seconds=again)


def account_of(scope: Any) -> Account:
    """The account of the request that is being answered."""
    account: Account = scope["state"]["account"]
    return account
