"""Where a rollback goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kit_control import engine_call
from kit_control.errors import KitError
from kit_engine import cli, releases, retention
from kit_engine.pending import DEPLOY, ROLLBACK
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


def ended(told: dict[str, Any] | KitError, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """End a release of this kind, of which the engine tells this."""

    def call(*_words: object, **_more: object) -> dict[str, Any]:
        if isinstance(told, KitError):
            raise told
        return told

    monkeypatch.setattr(engine_call, "call", call)
    task = {"phase": "finish", "problems": [], "keep": 5, "root": "/srv/site", "python": "python3"}
    made = action("kit_release", folder, task, release_result={"release": FIRST, "record": {"id": FIRST, "kind": kind}})
    monkeypatch.setattr(made, "_led", dict)
    done: dict[str, Any] = made.work()
    return done


@pytest.mark.parametrize("code", ["not_prepared", "lock_lost"])
@pytest.mark.parametrize("kind", [DEPLOY, ROLLBACK])
def test_one_that_was_cut_off_is_repeated_by_the_name_of_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: str
) -> None:
    failure = {"failed": True, "code": code, "problem": "it is gone.", "next": "repeat the command", "msg": "-"}
    told = ended(failure, kind, tmp_path, monkeypatch)
    again = f"make rollback ENV=prod RELEASE={FIRST}" if kind == ROLLBACK else "repeat the command"
    assert told["next"] == again
    assert told["msg"] == (f"it is gone.\nNext: {again}" if kind == ROLLBACK else "-")


def test_so_is_one_whose_host_is_not_reached_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KitError) as lost:
        ended(KitError("unreachable", "no answer", "ssh one"), ROLLBACK, tmp_path, monkeypatch)
    assert lost.value.remedy == f"ssh one, then: make rollback ENV=prod RELEASE={FIRST}"


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


@pytest.mark.parametrize("state", ["good", "rolled_back"])
def test_one_that_is_named_may_serve_there_already(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    keep(root, FIRST, SECOND)
    releases.write(root, Record(id=SECOND, env="prod", started=SECOND, state=state, image="site:1"))
    monkeypatch.setattr(retention, "image_id", lambda _image: "sha256:1")
    words = ["--root", str(root), "rollback-target", "--json", "--request", json.dumps({"rollback": SECOND})]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["release"] == SECOND


def test_but_not_one_that_no_gate_judged(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(root, FIRST, SECOND)
    releases.write(root, Record(id=SECOND, env="prod", started=SECOND, state="abandoned", image="site:1"))
    words = ["--root", str(root), "rollback-target", "--json", "--request", json.dumps({"rollback": SECOND})]
    assert cli.main(words) == 1
    assert "no gate judged it" in json.loads(capsys.readouterr().out)["problem"]


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
