"""A trained run through the commands of the registry, and back: what is fetched answers as the run did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import train, write_recipe

from danlu.cli import main
from danlu.engines.interface import Sampling
from danlu.export.run import run_export
from danlu.registry import Registry
from danlu.training.probes import read_probes
from danlu.training.trained import base_hash, open_run


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(write_recipe(folder, tiny_base), folder / "run")
    run_export(folder / "run")
    return folder / "run"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_REGISTRY", str(tmp_path / "registry"))
    return tmp_path / "registry"


class Commands:
    """`danlu registry` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def said(self, *words: str, status: int = 0) -> str:
        """What a command prints for people, on whichever stream."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["registry", *words])
        out, err = self.capsys.readouterr()
        assert ended.value.code == status, err
        return out + err

    def told(self, *words: str, status: int = 0) -> dict[str, Any]:
        """What it prints for programs."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["registry", *words, "--json"])
        out, err = self.capsys.readouterr()
        assert ended.value.code == status, err
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


def test_a_fetched_version_answers_its_probes_as_the_run_did(
    run: Path, place: Path, tiny_base: Path, commands: Commands
) -> None:
    added = commands.told("add", str(run), "--name", "support", "--alias", "candidate")
    registry = Registry.open()
    version = registry.resolve("support@candidate")
    assert (added["reference"], added["version"]["hash"]) == ("support@1", version.hash)
    assert version.base_sha256 == base_hash(tiny_base)
    about = registry.about(version)
    assert about["parity"]["merged"]["passed"]
    assert about["ledger"]["rows"]["read"] == 40
    assert about["recipe"]["training"]["max_steps"] == 6
    folder = registry.fetch(version)
    probes = read_probes(folder)
    engine = open_run(folder).engine(torch.float32)
    answers = engine.generate([one.messages for one in probes.probes], Sampling(probes.max_new_tokens))
    expected = [one.expected["float32"].answer_ids for one in probes.probes]
    assert [list(answer.ids) for answer in answers] == expected
    assert any(expected)


def test_the_commands_say_what_they_did(run: Path, place: Path, commands: Commands) -> None:
    assert "no adapters yet" in commands.said("list")
    assert commands.said("add", str(run), "--name", "support").splitlines()[0].startswith("support@1  ")
    (run / "report").mkdir(exist_ok=True)
    (run / "report" / "manifest.json").write_text(
        json.dumps({"kind": "report", "written": "2026", "metrics": {"base": {"loss": 2.5}, "tuned": {"loss": 1.5}}})
    )
    assert commands.told("add", str(run), "--name", "support", "--alias", "candidate")["reference"] == "support@2"
    assert commands.said("promote", "support@1", "production") == "production names support@1 (before: nothing)\n"
    assert (
        commands.said("promote", "support@candidate", "production")
        == "production names support@2 (before: support@1)\n"
    )
    assert commands.told("promote", "support@2", "production")["changed"] is False
    assert "candidate → 2, production → 2" in commands.said("list")
    assert commands.told("list")["adapters"] == [
        {"name": "support", "versions": [1, 2], "aliases": {"candidate": 2, "production": 2}}
    ]
    shown = commands.said("show", "support@production").splitlines()
    assert shown[0] == "support@2  candidate, production"
    assert "  tuned     loss 1.5" in shown
    assert any(line.startswith("  parity    merged: passed, ") for line in shown)
    assert [row.split()[0] for row in commands.said("show", "support").splitlines()] == [
        "version",
        "support@2",
        "support@1",
    ]
    assert commands.told("show", "support@2")["metrics"]["tuned"] == {"loss": 1.5}
    assert commands.said("rollback", "support", "production") == "production names support@1 (before: support@2)\n"
    assert "error: production named nothing before support@1" in commands.said(
        "rollback", "support", "production", status=2
    )
    assert "error: support@2 is what candidate names" in commands.said("remove", "support@2", status=2)
    freed = commands.said("remove", "support@2", "--force").splitlines()
    assert freed[0].startswith("removed support@2, ")
    assert freed[0].endswith(" freed")
    assert freed[1] == "candidate names nothing now"
    assert commands.said("prune", "support", "--keep-last", "1").startswith("0 leftover files removed")


def test_wrong_words_end_in_one_message_and_status_2(
    run: Path, place: Path, tmp_path: Path, commands: Commands
) -> None:
    commands.said("add", str(run), "--name", "support")
    for words, message in (
        (["add", str(run), "--name", "../x"], "'../x' can't be an adapter's name"),
        (["add", str(run), "--name", "x", "--alias", "3"], "'3' can't be an alias"),
        (["add", str(tmp_path), "--name", "x"], "not a complete run folder"),
        (["show", "nothing"], "there is no adapter nothing"),
        (["show", "support@9"], "support has no version or alias 9"),
        (["promote", "support", "production"], "support alone does not say which version"),
        (["promote", "support@9", "production"], "support has no version or alias 9"),
        (["rollback", "support", "production"], "support has no version or alias production"),
        (["remove", "support@9"], "support has no version or alias 9"),
        (["prune", "support"], "a name and --keep-last go together"),
        (["list", "--registry", "nosuch://place"], "can't be used"),
    ):
        result = commands.told(*words, status=2)
        assert message in result["faults"][0]["what"], words
        assert result["faults"][0]["hint"]


def test_a_damaged_log_ends_with_status_1_and_the_name_of_the_file(run: Path, place: Path, commands: Commands) -> None:
    commands.said("add", str(run), "--name", "support")
    event = place / "events" / "000000" / "000000001.json"
    event.write_bytes(event.read_bytes()[:50])
    for words in (["list"], ["promote", "support@1", "production"]):
        fault = commands.told(*words, status=1)["faults"][0]
        assert fault["what"] == "the registry's log is damaged: it is torn or no event"
        assert fault["where"] == str(event)


def test_what_polls_a_registry_needs_no_torch() -> None:
    code = "import danlu.registry, danlu.commands.registry, sys; assert not {'torch', 'fsspec'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
