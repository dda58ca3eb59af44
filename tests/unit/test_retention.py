"""Which of the app's images go from a host, and that a release which has ended does not hang on that."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kit_engine import app_image, backup_schedule, command, images_verbs, pending, releases, releasing, retention
from kit_engine.errors import EngineError
from kit_engine.pending import DEPLOY, Pending
from kit_engine.report import Report
from support.released_host import ONE, THREE, TWO, Host, report

IN_USE = "image is being used by stopped container 0123456789ab"
LATE = EngineError("timeout", "`docker image rm` was given 120 s and has not ended; it was stopped.", "docker info")


@dataclass
class Engine:
    """A Docker engine, as far as retention asks it.

    Attributes:
        images: tags, each with the names by which a registry has that image.
        stands_in: working directories of the Compose projects that have containers.
        refuses: tags whose removal fails, and how.
        removed: what went, in order.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    stands_in: list[str] = field(default_factory=list)
    refuses: dict[str, str | EngineError] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)

    def run(self, words: Sequence[str], **_limits: object) -> command.Done:
        """Answer one command."""
        verb = list(words[1:3])
        if verb == ["image", "ls"]:
            return command.Done(0, "".join(f"{one}\n" for one in self.images), "")
        if verb == ["ps", "--all"]:
            return command.Done(0, "".join(f"{one}\n" for one in ["", *self.stands_in]), "")
        if verb == ["image", "inspect"]:
            return command.Done(0, " ".join(self.images[words[-1]]), "")
        assert verb == ["image", "rm"]
        refusal = self.refuses.get(words[-1])
        if isinstance(refusal, EngineError):
            raise refusal
        if refusal:
            return command.Done(1, "", f"Error: {refusal}\n")
        self.removed += words[3:]
        del self.images[words[-1]]
        return command.Done(0, "", "")


@pytest.fixture
def engine(host: Host, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """One with the images of three releases, the first of which is none that is kept, and with one of somebody else."""
    made = Engine({name: [] for name in ("site:release-1", "site:release-2", "site:release-3", "other:release-1")})
    monkeypatch.setattr(command, "run", made.run)
    monkeypatch.setattr(retention, "image_id", lambda ref: "sha256:1" if ref in made.images else "")
    for number, name in enumerate((ONE, TWO, THREE), 1):
        host.release(name, image=f"site:release-{number}", state="failed" if name == ONE else "good")
    releases.switch(host.root, THREE)
    return made


def left(host: Host) -> list[str]:
    """The releases whose files are here."""
    return sorted(path.name for path in (host.root / releases.FOLDER).iterdir())


def brought(host: Host) -> list[str]:
    """The images that are noted as brought."""
    told: list[str] = json.loads((host.root / releases.RECORDS / retention.BROUGHT).read_text())
    return told


def test_what_no_kept_release_names_goes_and_nothing_of_others(host: Host, engine: Engine) -> None:
    assert retention.prune(host.root, 1) == ([ONE], [])
    assert engine.removed == ["site:release-1"]
    assert left(host) == [TWO, THREE]
    # Nothing is left to do, and the engine is not asked for that.
    engine.images.clear()
    assert retention.prune(host.root, 1) == ([], [])


@pytest.mark.parametrize("refusal", [IN_USE, LATE])
def test_an_image_that_stayed_goes_the_next_time_although_its_release_has_no_files(
    host: Host, engine: Engine, refusal: str | EngineError
) -> None:
    engine.refuses["site:release-1"] = refusal
    gone, problems = retention.prune(host.root, 1)
    assert gone == [ONE]
    assert len(problems) == 1
    assert (refusal.problem if isinstance(refusal, EngineError) else refusal) in problems[0]
    engine.refuses.clear()
    assert retention.prune(host.root, 1) == ([], [])
    assert engine.removed == ["site:release-1"]


def test_one_that_a_registry_gave_goes_with_that_name_first(host: Host, engine: Engine) -> None:
    pulled = "registry.test:5000/team/site@sha256:01"
    # containerd's store names by digest what nobody pulled.
    engine.images["site:release-1"] = ["site@sha256:01", pulled, "registry.test/another-site@sha256:01"]
    assert retention.prune(host.root, 1) == ([ONE], [])
    assert engine.removed == [pulled, "site:release-1"]


def test_one_that_was_brought_for_a_deploy_without_a_record_goes_with_the_next_delivery(
    host: Host, engine: Engine
) -> None:
    for number in (8, 9):
        engine.images[f"site:release-{number}"] = []
        retention.bring(host.root, [f"site:release-{number}"])
    assert brought(host) == ["site:release-8", "site:release-9"]
    assert retention.drop_unnamed(host.root, ["site:release-9"]) == []
    assert engine.removed == ["site:release-8"]
    assert brought(host) == ["site:release-9"]
    # Or with the end of the next one.
    assert retention.prune(host.root, 1)[1] == []
    assert engine.removed == ["site:release-8", "site:release-1", "site:release-9"]
    assert brought(host) == []


def test_what_another_environment_of_the_project_names_is_left_to_that_one(
    host: Host, engine: Engine, tmp_path: Path
) -> None:
    other = Host(tmp_path / "staging")
    other.release(ONE, image="site:release-1")
    engine.stands_in = [str(place / "shared/compose") for place in (host.root, other.root)]
    retention.bring(host.root, ["site:release-1"])
    assert retention.prune(host.root, 1) == ([ONE], [])
    assert engine.removed == brought(host) == []
    # That one's own release has no files any more: it goes from there.
    (other.root / releases.FOLDER / ONE / "stack.json").unlink()
    (other.root / releases.FOLDER / ONE).rmdir()
    assert retention.prune(host.root, 1) == ([], [])
    assert engine.removed == ["site:release-1"]


def test_a_delivery_notes_the_apps_image_before_it_comes(
    host: Host, engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ensure(*_: object) -> dict[str, object]:
        assert brought(host) == ["site:release-8", "site:release-9"]
        return {"changed": True, "image": {"ref": "site:release-9"}}

    engine.images["site:release-8"] = []
    engine.refuses["site:release-8"] = IN_USE
    retention.bring(host.root, ["site:release-8"])
    monkeypatch.setattr(app_image, "ensure", ensure)
    monkeypatch.setattr(app_image, "bound_cache", lambda _report: None)
    asked = {"ref": "site:release-9", "target": "release", "arguments": {}, "labels": {}}
    arguments = argparse.Namespace(root=host.root, request=json.dumps(asked), report=Report("app-image", as_json=True))
    images_verbs.app_image_verb(arguments)
    # Told, and no reason for a deploy to fail.
    assert IN_USE in capsys.readouterr().err
    assert images_verbs._of_app(["kit-base/postgres:16-0123456789ab", "site:release-9"]) == ["site:release-9"]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("hinders", ["image", "files", "engine", "off-site"])
def test_whatever_goes_wrong_after_a_good_release_is_a_warning(
    host: Host, engine: Engine, monkeypatch: pytest.MonkeyPatch, hinders: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error") if hinders == "files" else LATE

    record = host.record(THREE)
    record.state, record.backup = "live", {"id": "one"}
    releases.write(host.root, record)
    pending.begin(host.root, Pending(THREE, DEPLOY, TWO))
    if hinders == "image":
        engine.refuses["site:release-1"] = IN_USE
    elif hinders == "files":
        monkeypatch.setattr(shutil, "rmtree", fails)
    elif hinders == "engine":
        monkeypatch.setattr(retention, "records", fails)
    else:
        monkeypatch.setattr(backup_schedule, "follow_up", fails)
    told = report()
    releasing._finish(host.root, told, "", 1)
    (warning,) = host.record(THREE).warnings
    assert host.record(THREE).state == "good"
    assert pending.read(host.root) is None
    assert f"warning: {warning}" in told.stream.getvalue()  # type: ignore[attr-defined]  # it is a StringIO


def failing(host: Host, monkeypatch: pytest.MonkeyPatch, *, under_way: bool = False) -> None:
    """Have a phase of a deploy fail."""

    def prepare(*_: object) -> None:
        if under_way:
            pending.begin(host.root, Pending(THREE, DEPLOY, TWO))
        raise EngineError("migrate", "no such column", "mend it")

    monkeypatch.setattr(releasing, "_prepare", prepare)
    request = json.dumps({"phase": "prepare", "keep": 1})
    with pytest.raises(EngineError, match="no such column"):
        releasing.release_verb(argparse.Namespace(root=host.root, report=report(), request=request))


def test_a_release_that_fails_tidies_up_too(host: Host, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = "20260104T000000Z-0123456"
    engine.images["site:release-4"] = []
    host.release(newest, image="site:release-4", state="failed")
    failing(host, monkeypatch)
    # It stays to be looked at, with the image that the next try needs.
    assert left(host) == [TWO, THREE, newest]
    assert engine.removed == ["site:release-1"]


def test_its_own_error_is_what_is_told(host: Host, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.refuses["site:release-1"] = LATE
    failing(host, monkeypatch)


def test_one_that_is_still_under_way_is_left_to_the_next_run(
    host: Host, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(host, monkeypatch, under_way=True)
    assert left(host) == [ONE, TWO, THREE]
    assert engine.removed == []
