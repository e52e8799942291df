"""Keys are told once and kept as hashes; what is over, revoked or none counts for nothing."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from danlu.audit import audit_path, read_audit
from danlu.cli import cli
from danlu.errors import InputError
from danlu.serving.access.keys import Keyring, make_key, read_keys, revoke_key


@pytest.fixture(autouse=True)
def _own_audit_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_AUDIT", str(tmp_path / "audit.jsonl"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keys.json"


def test_a_key_is_nowhere_but_with_whom_it_was_told(path: Path) -> None:
    secret, key = make_key(path, "the shop", ["use"])
    assert Keyring(path).find(secret) == (key, "")
    for text in (path.read_text(), audit_path().read_text()):
        assert secret not in text
        assert secret[:16] not in text
        assert secret[-16:] not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_act_is_in_the_audit_log(path: Path) -> None:
    _, key = make_key(path, "the shop", ["use"])
    revoke_key(path, key.id, by="abc")
    created, revoked = read_audit(audit_path()).entries
    assert (created["kind"], created["key"]["id"], created["key"]["roles"]) == ("key created", key.id, ["use"])
    assert "sha256" not in created["key"]
    assert (revoked["kind"], revoked["key"]["id"], revoked["by_key"]) == ("key revoked", key.id, "abc")


def test_a_keyring_sees_new_and_revoked_keys_at_once(path: Path) -> None:
    first, _ = make_key(path, "first", ["use"])
    keyring = Keyring(path)
    second, key = make_key(path, "second", ["use"])
    assert keyring.find(second) == (key, "")
    revoke_key(path, key.id)
    found, why = keyring.find(second)
    assert found is None
    assert "this key was revoked at 20" in why
    assert keyring.find(first)[0] is not None


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text('{"keys": [{}]}')])
def test_a_file_that_goes_or_breaks_leaves_the_keys_as_they_were(
    path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], Any]
) -> None:
    secret, key = make_key(path, "the shop", ["use"])
    keyring = Keyring(path)
    change(path)
    assert keyring.find(secret) == (key, "")
    assert keyring.find(secret) == (key, "")
    assert capsys.readouterr().err.count("the keys stay as they were") == 1


def test_a_key_is_good_until_its_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, _ = make_key(path, "the shop", ["use"], expires="2026-12-31")
    keyring = Keyring(path)
    seconds_of = {"2026-12-30T23:59:59Z": True, "2026-12-31T00:00:00Z": False}
    for moment, good in seconds_of.items():
        monkeypatch.setattr("danlu.serving.access.keys.now_text", lambda moment=moment: moment)
        assert (keyring.find(secret)[0] is not None) is good, moment
    assert keyring.find(secret)[1] == "this key was good until 2026-12-31T00:00:00Z"


def test_what_is_no_key_counts_for_nothing(path: Path) -> None:
    secret, key = make_key(path, "the shop", ["use"])
    keyring = Keyring(path)
    other = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    unknown = secret.replace(key.id, "0" * 10)
    assert keyring.find(other) == keyring.find(unknown) == (None, "there is no such key")
    for text in ("", "x", "danlu-", secret + "x", secret.upper(), "danlu-é-" + "a" * 43, key.sha256):
        assert keyring.find(text) == (None, "this is no key of Danlu's; it has the form danlu-ID-SECRET")


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"roles": ["cook"]}, "use, feedback, operate, admin"),
        ({"roles": []}, "a key needs a role"),
        ({"name": ""}, "name"),
        ({"expires": "tomorrow"}, "'tomorrow' is no time"),
        ({"tokens_per_day": 0}, "tokens_per_day"),
    ],
)
def test_what_is_wrong_with_a_new_key_is_said_and_none_is_made(path: Path, about: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_key(path, **{"name": "x", "roles": ["use"], **about})
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"keys": [{"id": "x"}]}', "\xff"])
def test_a_file_that_has_no_keys_is_refused(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Keyring(path)
    assert caught.value.faults[0].hint


def test_the_commands_make_list_and_revoke(path: Path) -> None:
    def run(*words: str) -> Any:
        done = CliRunner().invoke(cli, ["keys", *words, "--keys", str(path), "--json"], catch_exceptions=False)
        return json.loads(done.stdout.splitlines()[-1])

    made = run("create", "--name", "shop", "--model", "law", "--requests-per-minute", "60")
    assert (made["key"]["roles"], made["key"]["models"]) == (["use", "feedback"], ["law"])
    assert Keyring(path).find(made["secret"])[0] is not None
    assert run("revoke", made["key"]["id"])["key"]["revoked"]
    assert [key["revoked"] is not None for key in run("list")["keys"]] == [True]
    with pytest.raises(InputError, match="no key has the id nothing"):
        run("revoke", "nothing")


def test_keys_that_are_made_at_once_are_all_there(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: make_key(path, f"key {number}", ["use"]), range(24)))
    assert len(read_keys(path)) == 24
