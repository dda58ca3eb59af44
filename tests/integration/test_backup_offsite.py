"""Copies of backups elsewhere: the real restic, which speaks SFTP to the real server program."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from kit_engine import backup, backup_offsite, stack, verification
from kit_engine.errors import EngineError
from kit_engine.report import Report
from kit_engine.stack import Stack
from support.kit import ROOT

pytestmark = pytest.mark.slow
CANARY = "canary-offsite-password"
GIVEN = "20260101T000000Z-one"
PROGRAMS = ("restic", "openssh-sftp-server")
# restic calls `ssh <host> -s sftp`: the host at the other end of it is this one.
SSH = """#!/bin/sh
echo "$@" >>"{log}"
[ ! -e "{away}" ] || { echo "ssh: connect to host other: refused" >&2; exit 255; }
exec "{server}"
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Debian's packages hold, without installing them."""
    folder = tmp_path_factory.mktemp("packages")
    got = subprocess.run(["apt-get", "download", *PROGRAMS], cwd=folder, capture_output=True, text=True, check=False)
    assert got.returncode == 0, got.stderr
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
    return folder


class Away:
    """The other host."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.gone, self.log = folder / "elsewhere", folder / "gone", folder / "ssh.log"
        self.log.touch()


@pytest.fixture
def away(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Away:
    made = Away(tmp_path)
    made.folder.mkdir()
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    text = SSH
    for name, path in (("log", made.log), ("away", made.gone), ("server", programs / "usr/lib/openssh/sftp-server")):
        text = text.replace(f"{{{name}}}", str(path))
    ssh.write_text(text)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{programs / 'usr/bin'}:/usr/bin:/bin")
    return made


def host(root: Path, away: Away) -> Stack:
    """A host of the golden files' stack, with its secrets."""
    (root / "records").mkdir(parents=True)
    (root / backup.FOLDER).mkdir(parents=True)
    secrets = root / backup_offsite.SECRETS
    secrets.write_text(f"RESTIC_PASSWORD={CANARY}\n")
    secrets.chmod(0o600)
    data = json.loads((ROOT / "tests/render/golden/prod/stack.json").read_text())
    made = stack.read(data, root, root / "releases/one")
    return replace(made, backup=replace(made.backup, offsite_repository=f"sftp:other:{away.folder}/kit"))


def made(root: Path, given: str = GIVEN) -> Path:
    """A backup that was verified, as far as a copy is concerned."""
    folder = root / backup.FOLDER / given
    (folder / "media").mkdir(parents=True)
    (folder / "media/one").write_bytes(bytes(range(256)) * 1000)
    (folder / backup.MANIFEST).write_text(json.dumps(verification.sealed({"id": given, "level": "restore"})))
    return folder


def test_a_copy_is_encrypted_and_comes_back_on_an_empty_host(tmp_path: Path, away: Away) -> None:
    first = host(tmp_path / "first", away)
    folder = made(first.root)
    assert backup_offsite.send(first, Report("backup", as_json=False), folder) == ""
    assert list(backup_offsite.listed(first)) == [GIVEN]
    told = backup_offsite.state(first)
    assert told is not None
    assert (told["id"], told["problem"]) == (GIVEN, "")
    stored = b"".join(path.read_bytes() for path in away.folder.rglob("*") if path.is_file())
    assert bytes(range(256)) not in stored
    assert CANARY not in away.log.read_text()
    wanted = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    shutil.rmtree(first.root)
    second = host(tmp_path / "second/srv", away)
    there = second.root / backup.FOLDER / GIVEN
    assert backup_offsite.fetch(second, GIVEN, there.parent / f"{backup.UNFINISHED}1", there)
    assert {path.relative_to(there): path.read_bytes() for path in there.rglob("*") if path.is_file()} == wanted
    assert [path.name for path in there.parent.iterdir()] == [GIVEN]
    # One of another environment is not this one's.
    assert backup_offsite.listed(replace(second, env="staging")) == {}


def test_a_place_that_is_away_or_refuses_leaves_the_backup(
    tmp_path: Path, away: Away, capsys: pytest.CaptureFixture[str]
) -> None:
    one = host(tmp_path / "one", away)
    folder = made(one.root)
    assert backup_offsite.send(one, Report("backup", as_json=False), folder) == ""
    away.gone.touch()
    later = made(one.root, "20260102T000000Z-two")
    assert backup_offsite.send(one, Report("backup", as_json=False), later) != ""
    assert later.is_dir()
    told = backup_offsite.state(one)
    assert told is not None
    assert "FAILED" in backup_offsite.line(told)
    assert told["good"] < told["ended"]
    with pytest.raises(EngineError, match="was not copied off-site"):
        backup_offsite.demand_copied(one, later.name)
    away.gone.unlink()
    (one.root / backup_offsite.SECRETS).write_text(f"RESTIC_PASSWORD={CANARY}-wrong\n")
    assert "wrong password" in backup_offsite.send(one, Report("backup", as_json=False), later)
    (one.root / backup_offsite.SECRETS).chmod(0o644)
    assert "Others can read" in backup_offsite.send(one, Report("backup", as_json=False), later)
    said = capsys.readouterr()
    assert CANARY not in said.out + said.err + (one.root / backup_offsite.RECORD).read_text()
