"""Which version of the project is deployed: a git ref, exported beside the checkout, or the working tree as it is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import yaml

from kit_control.errors import KitError

GIT_SECONDS = 60
# Exports kept, so that going back and forth between refs costs nothing.
KEPT = 5


@dataclass(frozen=True)
class Version:
    """What a source is.

    Attributes:
        sha: the commit; empty outside git.
        committed: when, in ISO 8601.
        changed: files of the working tree that differ from it, at most a few.
    """

    sha: str
    committed: str
    changed: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """For release ids: seven digits of the commit, and whether there is more than it."""
        return (self.sha[:7] or "nogit") + ("-dirty" if self.changed or not self.sha else "")


@cache
def manifest_at(path: Path, ref: str, exports: Path) -> Path:
    """Give the manifest of a version of the project.

    Args:
        path: the manifest in the working tree.
        ref: a git ref; empty for the working tree.
        exports: folder that exports are kept in.

    Returns:
        The working tree's own path, or that of an export, which holds the manifest and the source that it names.

    Raises:
        KitError: there is no such ref, no git repository, or no manifest in that version.
    """
    if not ref:
        return path
    folder = path.parent
    top = _git(folder, "rev-parse", "--show-toplevel")
    if not top:
        raise KitError(
            "version",
            f"{folder} is in no git repository, and outside local a commit is deployed.",
            "git init && git add --all && git commit    (or deploy the files as they are: DIRTY=1)",
        )
    sha = _git(folder, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if not sha:
        raise KitError("version", f"There is no commit {ref!r} in {top}.", "git log --oneline    (names them)")
    inside = path.resolve().relative_to(Path(top).resolve())
    # Several projects may lie in one repository.
    target = exports / f"{sha[:12]}-{hashlib.sha256(inside.as_posix().encode()).hexdigest()[:8]}"
    facts = _facts(target)
    if not facts.is_file():
        _export(Path(top), sha, inside, target)
        committed = _git(folder, "show", "--no-patch", "--format=%cI", sha)
        facts.write_text(json.dumps(asdict(Version(sha, committed))), encoding="utf-8")
        _prune(exports, target)
    if not (target / inside).is_file():
        raise KitError("version", f"Version {ref} ({sha[:7]}) holds no {inside}.", f"git show --stat {sha[:7]}")
    return target / inside


@cache
def version_of(source: Path) -> Version:
    """Tell what a source is, by its folder: one of an export, or of a working tree."""
    for folder in (source, *source.parents[:-1]):
        if _facts(folder).is_file():
            facts = json.loads(_facts(folder).read_text(encoding="utf-8"))
            return Version(facts["sha"], facts["committed"])
    told = _git(source, "log", "-1", "--format=%H %cI").split()
    if len(told) != 2:
        return Version("", "")
    return Version(told[0], told[1], changes(source))


def _facts(export: Path) -> Path:
    """The file beside an export that says what it is one of; inside, it would become part of the project."""
    return export.with_name(f"{export.name}.kit-version.json")


def changes(source: Path) -> tuple[str, ...]:
    """Name the first files below a folder that differ from the last commit, new ones included."""
    lines = _git(source, "status", "--porcelain", "--", ".").splitlines()
    return tuple(line[2:].strip() for line in lines[:5])


def _export(top: Path, sha: str, manifest: Path, target: Path) -> None:
    text = _git(top, "show", f"{sha}:{manifest.as_posix()}")
    try:
        named = (yaml.safe_load(text) or {}).get("source", {}).get("path", ".")
    except (yaml.YAMLError, AttributeError):
        # What is wrong with it is said when it is read.
        named = "."
    source = Path(os.path.normpath(manifest.parent / str(named)))
    paths = [path.as_posix() for path in {source, manifest} if not path.is_absolute() and ".." not in path.parts]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as scratch:
        archive = Path(scratch, "source.tar")
        there = [path for path in paths if path == "." or _git(top, "ls-tree", "--name-only", sha, "--", path)]
        if not there or not _git_ok(top, "archive", "--format=tar", f"--output={archive}", sha, "--", *there):
            raise KitError("version", f"Version {sha[:7]} holds no {manifest}.", f"git show --stat {sha[:7]}")
        files = Path(scratch, "files")
        files.mkdir()
        with tarfile.open(archive) as packed:
            # Git's own archive of our own commit. Debian 12's Python has no filters yet, and later ones warn without.
            if hasattr(tarfile, "data_filter"):
                packed.extractall(files, filter="data")
            else:
                packed.extractall(files)  # noqa: S202 - as above
        if not target.exists():
            files.rename(target)


def _prune(exports: Path, newest: Path) -> None:
    others = [path for path in exports.iterdir() if path.is_dir() and path != newest and _facts(path).is_file()]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[: max(0, len(others) - KEPT + 1)]:
        _facts(path).unlink()
        shutil.rmtree(path)


def _git(folder: Path, *words: str) -> str:
    """Ask git; empty where the folder is in no repository, or in one that belongs to somebody else."""
    done = _run(folder, *words)
    return done.stdout.rstrip() if done and done.returncode == 0 else ""


def _git_ok(folder: Path, *words: str) -> bool:
    done = _run(folder, *words)
    return done is not None and done.returncode == 0


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(  # noqa: S603 - an argument list of our own, no shell
            ["git", "-C", str(folder), *words],  # noqa: S607 - setup.sh sees to it that git is there
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
