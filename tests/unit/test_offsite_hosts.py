"""Which host's backup is brought back from a place that several share."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from kit_engine import backup, backup_offsite, backup_verbs, offsite_place, restic, restore, stack, verification
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.offsite_place import Snapshot
from kit_engine.report import Report
from kit_engine.stack import Stack
from support.kit import ROOT

OURS = platform.node()
# Host, id, and what its manifest says besides.
Held = tuple[str, str, Mapping[str, object]]
Holds = Callable[..., Stack]


def given(day: int) -> str:
    """An id of some day of a month that is over."""
    return f"202501{day:02}T120000Z-prod"


@pytest.fixture
def holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Holds:
    """Make a stack whose place holds backups."""
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    made = stack.read(data, tmp_path, tmp_path / "releases/one")

    def hold(*held: Held) -> Stack:
        found = [
            Snapshot(str(number), "id", name, host, frozenset(), float(str(told.get("begun", time.time()))))
            for number, (host, name, told) in enumerate(held)
        ]

        class Place:
            """Gives the manifest of each snapshot."""

            stack = made

            def demand(self, *words: str, limit: float) -> str:
                # A host that asks for the first time reads the whole index before that.
                assert limit == made.backup.timeout_seconds
                _, name, told = held[int(words[2])]
                return json.dumps({"schema": 1, "id": name, "kind": "manual", "bytes": 1, "release": "", **told})

        monkeypatch.setattr(restic, "opened", lambda _: nullcontext(Place()))
        monkeypatch.setattr(offsite_place, "snapshots", lambda _: found)
        return replace(made, backup=replace(made.backup, offsite_repository="/place"))

    return hold


def lie_here(found: Stack, *told: Mapping[str, object]) -> None:
    """Have backups in the host's own folder."""
    for one in told:
        folder = found.root / backup.FOLDER / str(one["id"])
        folder.mkdir(parents=True)
        facts = {"schema": 1, "kind": "manual", "bytes": 1, "release": "", "level": "read", **one}
        (folder / backup.MANIFEST).write_text(json.dumps(facts))


@pytest.mark.parametrize(("kinds", "wanted"), [(("manual", "release", "safety"), 2), (("safety", "safety"), None)])
def test_the_newest_there_is_not_what_a_restore_has_replaced(
    holds: Holds, kinds: Sequence[str], wanted: int | None
) -> None:
    one = holds(*((OURS, given(number), {"kind": kind}) for number, kind in enumerate(kinds, start=1)))
    found = backup_offsite.manifest_of(one, "")
    assert (found and found["id"]) == (wanted and given(wanted))
    # By its id it is one like any other.
    found = backup_offsite.manifest_of(one, given(len(kinds)))
    assert found
    assert found["id"] == given(len(kinds))


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        # This host's own, however much older.
        ([(OURS, given(1), {}), ("b", given(2), {}), ("c", given(3), {})], (given(1), OURS)),
        # One that has a new name: there is but one that it can stand for.
        ([("b", given(2), {}), ("b", given(1), {})], (given(2), "b")),
        ([(OURS, given(3), {"kind": "safety"}), ("b", given(2), {})], (given(2), "b")),
    ],
)
def test_latest_off_site_is_this_hosts(holds: Holds, held: list[Held], wanted: tuple[str, str]) -> None:
    found = restore.choose(Docker(holds(*held)), "latest")
    assert (found["id"], found["host"]) == wanted


def test_latest_is_not_guessed_among_several_other_hosts(holds: Holds) -> None:
    docker = Docker(holds(("b", given(1), {}), ("b", given(3), {}), ("c", given(2), {})))
    with pytest.raises(EngineError) as refused:
        restore.choose(docker, "latest")
    assert f"b: {given(3)}, {given(1)}\n    c: {given(2)}\n" in refused.value.problem
    assert "BACKUP=<id>" in refused.value.remedy
    # Named, it is clear.
    assert restore.choose(docker, given(2))["host"] == "c"


def test_an_id_that_several_other_hosts_have_is_refused(holds: Holds) -> None:
    docker = Docker(holds(("b", given(1), {}), ("c", given(1), {})))
    with pytest.raises(EngineError, match=f"several hosts have a backup {given(1)}: b, c"):
        restore.choose(docker, given(1))
    docker = Docker(holds(("b", given(1), {}), (OURS, given(1), {}), ("c", given(1), {})))
    assert restore.choose(docker, given(1))["host"] == OURS


@pytest.mark.parametrize("ahead", [7200.0, 10 * 366 * 86_400.0])
def test_a_clock_that_went_wrong_once_is_not_latest_for_ever(holds: Holds, ahead: float) -> None:
    wrong = time.time() + ahead
    name = time.strftime("%Y%m%dT%H%M%SZ-prod", time.gmtime(wrong))
    one = holds((OURS, given(1), {}), (OURS, name, {"begun": wrong}), (OURS, given(2), {}))
    found = backup_offsite.manifest_of(one, "")
    assert found
    # A little is none: a clock may be set back.
    assert found["id"] == (given(2) if ahead > 86_400.0 else name)


def test_latest_on_the_host_is_its_own_before_what_was_fetched(holds: Holds) -> None:
    one = holds()
    lie_here(one, {"id": given(1)}, {"id": given(2), "host": OURS}, {"id": given(3), "host": "b"})
    assert restore.choose(Docker(one), "latest")["id"] == given(2)
    assert restore.choose(Docker(one), given(3))["host"] == "b"


def test_of_a_host_that_has_a_new_name_all_are_anothers(holds: Holds) -> None:
    one = holds()
    lie_here(one, {"id": given(1), "host": "b"}, {"id": given(2), "host": "b"})
    assert restore.choose(Docker(one), "latest")["id"] == given(2)


@pytest.mark.parametrize(("rows", "refused"), [(3, True), (4000, False)])
def test_an_emptied_database_is_not_latest_while_the_rows_lie_off_site(holds: Holds, rows: int, refused: bool) -> None:
    """A host that was built anew copies the backups of its empty database too."""
    now = {"rows": {"shop": rows}}
    one = holds(
        (OURS, given(5), {"rows": {"shop": 5000}}), (OURS, given(6), now), (OURS, given(4), {"rows": {"shop": 9}}),
        ("b", given(7), {"rows": {"shop": 10**6}}),
    )  # fmt: skip
    lie_here(one, {"id": given(6), **now})
    report = Report("restore", as_json=True)
    chosen = restore.choose(Docker(one), "latest")
    assert chosen["id"] == given(6)
    if refused:
        with pytest.raises(EngineError, match=f"{given(6)}, has 3 rows .*{given(5)}, .*has 5,000 rows") as raised:
            restore._demand_rows_kept(one, report, chosen)
        assert f"BACKUP={given(5)}" in raised.value.remedy
    else:
        restore._demand_rows_kept(one, report, chosen)


def test_a_place_that_is_away_keeps_nobody_from_restoring_what_is_here(
    holds: Holds, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = holds()
    lie_here(one, {"id": given(6), "rows": {"shop": 3}})

    def away(_: object) -> None:
        raise EngineError("offsite", "no route", "mend it")

    monkeypatch.setattr(restic, "opened", away)
    restore._demand_rows_kept(one, Report("restore", as_json=False), restore.choose(Docker(one), "latest"))
    assert "warning: whether more rows lie off-site is not known: no route" in capsys.readouterr().err


def test_the_list_names_the_host_of_what_is_anothers(holds: Holds, capsys: pytest.CaptureFixture[str]) -> None:
    one = holds(
        (OURS, given(1), {}), ("b", given(2), {}), ("b", given(3), {}), ("c", given(3), {}), ("b", given(4), {}),
        ("b", given(5), {}),
    )  # fmt: skip
    # Of the same second, and one that was fetched.
    lie_here(one, {"id": given(4), "host": OURS}, {"id": given(5), "host": "b"})
    arguments = argparse.Namespace(report=Report("backups", as_json=False))
    backup_verbs.backups_verb(Docker(one), arguments)
    said = capsys.readouterr().out
    lines = {line.partition(",")[0]: line for line in said.splitlines()}
    assert lines[given(1)].endswith("off-site only")
    assert lines[given(2)].endswith("off-site only, made on host b")
    assert lines[given(3)].endswith("off-site only, made on host b and c")
    assert lines[given(4)].endswith("on host")
    assert lines[given(5)].endswith("on host and off-site")
    assert "made on host b" in lines[given(5)]


def test_who_confirms_is_told_whose_it_is() -> None:
    assert restore._made_on({"host": "b"}) == ", made on host b"
    assert restore._made_on({"host": ""}) == ""
    assert backup.elsewhere({"host": "b"}) == ", made on host b"
    assert backup.elsewhere({"host": OURS}) == ""


@pytest.mark.parametrize("there", [True, False])
def test_of_a_backup_that_is_damaged_here_it_is_told_how_its_copy_is_taken(holds: Holds, there: bool) -> None:
    one = holds(*([(OURS, given(1), {})] if there else []))
    lie_here(one, {"id": given(1)})
    folder = one.root / backup.FOLDER
    put_aside = f"sudo mv {folder}/{given(1)} {folder}/.damaged-{given(1)}    (on the host), then: make "
    (folder / given(1) / backup.MANIFEST).write_text("damaged")
    with pytest.raises(EngineError, match=r"manifest of backup .* is missing, or is not what was written") as refused:
        restore.choose(Docker(one), given(1))
    assert refused.value.remedy.startswith(f"{put_aside}restore ENV=prod BACKUP={given(1)}") is there
    assert ("choose another" in refused.value.remedy) is not there

    def damaged() -> EngineError:
        found = {"id": given(1), "bytes": 1, "sha256": "a", "level": "read", "verified": 1.0, "restored": 0.0}
        told = {"project": one.project, "env": one.env, **found}
        with pytest.raises(verification.DamagedError, match=r"database\.dump is missing") as raised:
            restore._demand_sound(Docker(one), told, folder / given(1))
        return raised.value

    assert damaged().remedy.startswith(f"{put_aside}restore ENV=prod BACKUP={given(1)}") is there
    # It was put aside before: what came of its copy is damaged as well.
    (folder / f".damaged-{given(1)}").mkdir()
    assert "choose another" in damaged().remedy
