import json
import os
import stat

import pytest

from danlu.data.privacy import KeyFile
from danlu.errors import DataError


def test_new_key_file_is_its_owners_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        KeyFile(tmp_path / "keys" / "a.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys" / "a.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_tokens_are_merged_and_the_mode_stays(tmp_path):
    path = tmp_path / "a.json"
    first, second = KeyFile(path), KeyFile(path)
    first.add({"<MOBILE_AAAAAAAAAA>": "13812345678"})
    second.add({"<NAME_BBBBBBBBBB>": "陈思远"})
    again = KeyFile(path)
    assert again.tokens == {"<MOBILE_AAAAAAAAAA>": "13812345678", "<NAME_BBBBBBBBBB>": "陈思远"}
    assert again.secret == first.secret == second.secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["a.json"]


def test_token_that_stands_for_something_else_is_refused_and_nothing_changes(tmp_path):
    key = KeyFile(tmp_path / "a.json")
    key.add({"<MOBILE_AAAAAAAAAA>": "13812345678"})
    with pytest.raises(DataError, match="stands for something else"):
        key.add({"<MOBILE_AAAAAAAAAA>": "13987654321"})
    assert KeyFile(tmp_path / "a.json").tokens == {"<MOBILE_AAAAAAAAAA>": "13812345678"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_key_file_that_others_can_read_is_refused(tmp_path, mode):
    KeyFile(tmp_path / "a.json")
    (tmp_path / "a.json").chmod(mode)
    with pytest.raises(DataError, match="others can read") as error:
        KeyFile(tmp_path / "a.json")
    assert "chmod 600" in str(error.value)


@pytest.mark.parametrize("mark", [".git", "manifest.json"])
def test_key_file_inside_a_folder_that_is_passed_on_is_refused(tmp_path, mark):
    (tmp_path / mark).mkdir()
    with pytest.raises(DataError, match="passed on"):
        KeyFile(tmp_path / "deep" / "er" / "a.json")
    assert not (tmp_path / "deep").exists()


def test_key_file_inside_the_folder_being_made_is_refused(tmp_path):
    with pytest.raises(DataError, match="passed on"):
        KeyFile(tmp_path / "prepared" / "a.json", outside=[tmp_path / "prepared"])


def test_link_into_a_folder_that_is_passed_on_is_refused(tmp_path):
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "repository")
    with pytest.raises(DataError, match="passed on"):
        KeyFile(tmp_path / "link" / "a.json")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"secret": "AAAA", "tokens": {}}', '{"tokens": {}}', '{"secret": "!", "tokens": {}}']
)
def test_other_files_are_not_taken_for_key_files(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(DataError, match=r"not a key file|too short"):
        KeyFile(path)
    assert path.read_text() == content


def test_fingerprint_tells_secrets_apart_and_gives_nothing_away(tmp_path):
    first, second = KeyFile(tmp_path / "a.json"), KeyFile(tmp_path / "b.json")
    assert first.secret_fingerprint == KeyFile(tmp_path / "a.json").secret_fingerprint != second.secret_fingerprint
    assert first.secret.hex()[:8] not in first.secret_fingerprint
    assert json.loads((tmp_path / "a.json").read_text())["secret"] not in first.secret_fingerprint


def test_key_file_that_went_away_is_not_made_anew_with_another_secret(tmp_path):
    key = KeyFile(tmp_path / "a.json")
    key.path.unlink()
    with pytest.raises(DataError, match="gone"):
        key.add({"<MOBILE_AAAAAAAAAA>": "13812345678"})
