"""A database that was emptied is not taken for one to keep."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kit_engine import backup, backup_loss, stack, verification
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.report import Report
from support.kit import ROOT

SERVER = Container("id", "db-1", "db", "image", "image", "running", 0, "", "", 0)
FULL = {"public.a": 5_000, "public.b": 0}
FACTS: dict[str, Any] = {
    "made": 1.0, "project": "p", "env": "prod", "release": "r", "database": "d", "server": "16.10", "client": "16.10",
    "bytes": 1, "sha256": "", "database_bytes": 1, "compression": "gzip",
}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "rows", "lost"),
    [
        ({}, {}, False),
        ({}, {"public.a": 0}, False),
        (FULL, {}, True),
        # Without rows there were tables all the same.
        ({"public.a": 0}, {}, True),
        (FULL, {"public.a": 0, "public.b": 0}, True),
        (FULL, {"public.a": 499}, True),
        (FULL, {"public.a": 500}, False),
        # In a table of another name rows are rows.
        (FULL, {"public.c": 5_000}, False),
        ({"public.a": 1_000}, {"public.a": 0}, False),
        ({"public.a": 1_001}, {"public.a": 0}, True),
    ],
)
def test_what_counts_as_lost(before: Mapping[str, int], rows: Mapping[str, int], lost: bool) -> None:
    assert backup_loss.is_lost(before, rows) == lost


def files(count: int) -> dict[str, int]:
    """What a manifest says of so many media files."""
    return {"files": count, "bytes": count * 2**20}


@pytest.mark.parametrize(
    ("before", "media", "lost"),
    [
        (None, None, False),
        (None, files(0), False),
        # The volume is gone, or another one.
        (files(1), None, True),
        (files(0), None, False),
        (files(100), files(0), False),
        (files(101), files(0), True),
        (files(200), files(19), True),
        (files(200), files(20), False),
    ],
)
def test_what_counts_as_lost_of_media_files(
    before: Mapping[str, int] | None, media: Mapping[str, int] | None, lost: bool
) -> None:
    assert backup_loss.are_files_lost(before, media) == lost


class Made:
    """Backups of a host, each of a database with given rows."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
        self.docker, self.patch, self.said = Docker(stack.read(data, root, root)), monkeypatch, io.StringIO()
        self.folder = root / backup.FOLDER
        self.folder.mkdir(parents=True)

    def of(self, kind: str, rows: Mapping[str, int], problem: str = "", media: Mapping[str, int] | None = None) -> str:
        """Make one, so far as to its manifest; gives its id."""
        self.patch.setattr(backup, "_dump", lambda *_: {**FACTS, "rows": dict(rows), "media": media})
        new = self.folder / ".new-1"
        new.mkdir()
        wanted, report = self.docker.stack.database, Report("backup", as_json=False, stream=self.said)
        session: Any = None
        assert wanted is not None
        try:
            done = backup._fill(
                self.docker, report, SERVER, session, wanted, new, 1, verification.CHECKSUM, kind, None, 1
            )
        except EngineError:
            backup.remove_unfinished(self.docker.stack.root)
            raise
        new.rename(self.folder / done.id)
        if problem:
            told = {"level": "checksum", "verified": 1.0, "restored": 0.0, "problem": problem}
            (self.folder / done.id / "checked.json").write_text(json.dumps(told))
        return done.id


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A host without a backup."""
    return Made(tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", [backup.RELEASE, backup.SCHEDULED])
def test_one_by_hand_is_taken_for_meant_and_what_others_are_compared_with(made: Made, kind: str) -> None:
    # The first ever may be of nothing.
    made.of(kind, {})
    good = made.of(kind, FULL)
    # What was found to be bad is compared with nothing, nor is one before a restore: that is of what was lost.
    made.of(backup.MANUAL, {}, problem="It is cut off.")
    made.of(backup.SAFETY, {})
    for _ in range(2):
        with pytest.raises(EngineError) as refused:
            made.of(kind, {"public.a": 3})
        assert f"3 rows in 1 tables; backup {good} of it had 5,000 rows in 2 tables" in refused.value.problem
        assert "Nothing was changed" in refused.value.problem
        assert f"make restore ENV=prod BACKUP={good}" in refused.value.remedy
        assert "make backup ENV=prod" in refused.value.remedy
    meant = made.of(backup.MANUAL, {"public.a": 3})
    assert f"warning: The database has 3 rows in 1 tables; backup {good} of it had" in made.said.getvalue()
    made.of(kind, {"public.a": 3})
    assert meant < made.of(kind, {"public.a": 0})


@pytest.mark.parametrize("kind", [backup.RELEASE, backup.SCHEDULED])
@pytest.mark.parametrize("left", [None, files(2)])
def test_media_files_that_are_gone_are_judged_as_rows_are(made: Made, kind: str, left: dict[str, int] | None) -> None:
    good = made.of(kind, FULL, media=files(500))
    with pytest.raises(EngineError) as refused:
        made.of(kind, FULL, media=left)
    has = "2 media files, 2.0 MiB" if left else "no media volume"
    assert f"The site has {has}; backup {good} of it had 500 media files, 500.0 MiB." in refused.value.problem
    assert "those that have the media files, so none was made" in refused.value.problem
    assert f"make restore ENV=prod BACKUP={good}" in refused.value.remedy
    with pytest.raises(EngineError, match="those that have the rows and media files"):
        made.of(kind, {}, media=left)
    made.of(backup.MANUAL, FULL, media=left)
    assert f"warning: The site has {has}; " in made.said.getvalue()
    made.of(kind, FULL, media=left)


@pytest.mark.parametrize(("media", "told"), [(files(3), "3 media files, 3.0 MiB"), (None, "no media volume")])
def test_a_backups_last_line_names_its_media_files(media: dict[str, int] | None, told: str) -> None:
    said = io.StringIO()
    facts = {**FACTS, "id": "one", "kind": backup.MANUAL, "level": verification.CHECKSUM, "seconds": 1.0}
    backup._tell(Report("backup", as_json=False, stream=said), backup.Backup(**facts, media=media), "")
    assert said.getvalue().rstrip().endswith(f"it was not read back; {told}")
