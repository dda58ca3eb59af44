"""Where a rollback goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kit_control import engine_call
from kit_control.errors import KitError
from kit_engine import cli, releases, retention
from kit_engine.releases import Record
from support.actions import action

TASK = {"phase": "prepare", "rollback": "", "root": "/srv/site", "python": "python3"}
FIRST, SECOND = "20260101T000000Z-0123456", "20260102T000000Z-0123456"


def going(folder: Path, targets: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prepare the rollback of a host whose play's hosts have told these targets; gives what the engine is asked for."""
    asked: list[str] = []

    def call(_action: object, _root: Path, _python: str, verb: str, words: list[str], **_: object) -> dict[str, Any]:
        asked.append(json.loads(words[1])["rollback"])
        return {"changed": True, "verb": verb}

    monkeypatch.setattr(engine_call, "call", call)
    known = {host: {"release_target": told} for host, told in targets.items()}
    made = action("kit_release", folder, TASK, hostvars=known, ansible_play_hosts=list(targets))
    made._prepare()
    return asked


def test_hosts_that_would_go_to_different_releases_are_refused_before_any_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KitError) as refused:
        going(tmp_path, {"one": {"release": FIRST}, "two": {"release": SECOND}}, monkeypatch)
    assert refused.value.code == "rollback"
    assert f"  - one: {FIRST}\n  - two: {SECOND}\nNothing was changed." in refused.value.problem
    assert "make rollback ENV=prod RELEASE=<id>" in refused.value.remedy


def test_those_that_agree_go_there_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert going(tmp_path, {"one": {"release": FIRST}, "two": {"release": FIRST}}, monkeypatch) == [FIRST]


@pytest.mark.parametrize("skipped", [{}, {"changed": False, "skipped": True}])
def test_a_host_alone_finds_that_out_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: dict[str, Any]
) -> None:
    assert going(tmp_path, {"one": skipped}, monkeypatch) == [""]


def keep(root: Path, *ids: str, image: str = "site:1") -> None:
    """Write good releases, of which the last serves."""
    for one in ids:
        (root / releases.FOLDER / one).mkdir(parents=True)
        releases.write(root, Record(id=one, env="prod", started=one, state="good", image=image))
    (root / "current").symlink_to(f"{releases.FOLDER}/{ids[-1]}")


def test_a_host_tells_where_it_would_go(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(root, FIRST, SECOND)
    monkeypatch.setattr(retention, "image_id", lambda _image: "sha256:1")
    words = ["--root", str(root), "rollback-target", "--json", "--request", '{"rollback": ""}']
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["release"] == FIRST


@pytest.mark.parametrize("wanted", ["", FIRST])
def test_a_release_whose_image_is_gone_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wanted: str
) -> None:
    keep(root, FIRST, SECOND)
    monkeypatch.setattr(retention, "image_id", lambda _image: "")
    words = ["--root", str(root), "rollback-target", "--json", "--request", json.dumps({"rollback": wanted})]
    assert cli.main(words) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["code"] == "rollback"
    assert ("its image site:1 is not on this host any more" if wanted else "No good release") in told["problem"]
    assert "Nothing was changed." in told["problem"]
