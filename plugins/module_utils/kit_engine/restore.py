"""Bring a backup back: into a database of its own first, then into the place of the one in use by one rename.

The one that was in use stays, under a dated name. Until the rename it goes on serving.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Optional

from kit_engine import (
    at_boot,
    backup,
    backup_loss,
    backup_notes,
    backup_offsite,
    backup_room,
    beside,
    database,
    disk,
    dump_feed,
    external,
    image_migrations,
    jobs,
    media_away,
    parallel,
    pending,
    recovery,
    releases,
    restore_database,
    restore_media,
    throw_away,
    verbs,
    verification,
)
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.image_migrations import Migration
from kit_engine.pending import RESTORE, Pending
from kit_engine.report import Report
from kit_engine.stack import Database, External, Stack

STEPS = ("check", "backup", "restore", "media", "stop", "swap", "ready")
NEWEST = "latest"


def restore_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """Bring a backup back."""
    report: Report = arguments.report
    with external.reached(docker, wanted_database(docker), lacking=True) as server:
        _restore_asked(docker, report, server, arguments)


def _restore_asked(docker: Docker, report: Report, server: Container, arguments: argparse.Namespace) -> None:
    stack, wanted = docker.stack, wanted_database(docker)
    found = choose(docker, arguments.backup)
    if arguments.backup == NEWEST:
        _demand_rows_kept(stack, report, found)
    external.demand_restorable(docker, server, wanted)
    size, without = restore_database.size(docker, server, wanted), bool(arguments.without_backup)
    what = f"{wanted.name} ({'not there' if size is None else f'{size / 2**20:.1f} MiB'})"
    stays = "There is none that could be kept."
    if size is not None:
        stays = f"What is there now stays under another name{', and no backup is made of it' if without else ''}."
    verbs.confirm(
        stack.env,
        arguments.confirm,
        f"This replaces database {what} of {stack.name} ({stack.env}) "
        f"on host {platform.node()} by backup {backup.line(found)}{_made_on(found)}, "
        f"release {found['release'] or '-'}, {sum((found.get('rows') or {}).values()):,} rows. {stays}",
        _again(stack, found, without=without),
    )
    told = restore(docker, report, found, without_backup=without)
    media = " with its media files" if told["media"] else ""
    text = f"{stack.name} ({stack.env}) serves backup {found['id']}{backup.elsewhere(found)}{media}; {told['before']}."
    if told["lacking"]:
        text += (
            f"\nThe code knows migrations that this backup was made without: {', '.join(told['lacking'])}.\n"
            f"Next: {stack.make('migrate')}"
        )
    if told["unknown"]:
        text += (
            f"\nThe backup was made with migrations that the code does not know: {', '.join(told['unknown'])}.\n"
            f"It runs on the newer schema, where a write may fail. Next: {_newer(stack, found)}"
        )
    report.done({"changed": True, "backup": found["id"], "message": text, **told}, text)


def _again(stack: Stack, found: dict[str, Any], *, without: bool) -> str:
    """The command, confirmed; with or without a backup of what is there."""
    words = ("WITHOUT_BACKUP=1",) if without else ()
    return stack.make("restore", f"BACKUP={found['id']}", f"CONFIRM={stack.env}", *words)


def _made_on(found: dict[str, Any]) -> str:
    """Several hosts may share a place off-site, and each have a database of its own."""
    return f", made on host {found['host']}" if found.get("host") else ""


def _demand_rows_kept(stack: Stack, report: Report, found: dict[str, Any]) -> None:
    """Refuse for ``latest`` a backup of the database that a host has which was built anew: the rows lie off-site."""
    if not (stack.root / backup.FOLDER / found["id"]).is_dir() or "rows" not in found:
        return
    try:
        before = backup_offsite.newest_away(stack)
    except EngineError as error:
        report.say(f"    warning: whether more rows lie off-site is not known: {error.problem}")
        return
    if before and backup_loss.is_lost(before.get("rows") or {}, found["rows"]):
        raise EngineError(
            "backup",
            f"The latest backup on this host, {found['id']}, has {backup_loss.figures(found['rows'])}; {before['id']}, "
            f"which this host has off-site only, has {backup_loss.figures(before['rows'])}. Which is meant? "
            "Nothing was changed.",
            ", or: ".join(stack.make("restore", f"BACKUP={one['id']}") for one in (before, found)),
        )


def restore(docker: Docker, report: Report, found: dict[str, Any], *, without_backup: bool = False) -> dict[str, Any]:
    """Bring a backup back.

    Args:
        docker: the release that serves.
        report: where steps are told.
        found: the backup's manifest; one that lies off-site only is fetched.
        without_backup: make none of what is there.

    Returns:
        ``kept_as`` (name of the database that was in use), ``safety`` (id of the backup made of it, empty where none
        was), ``before`` (both in words), ``lacking`` (migrations that the release's code has and this database has
        not), ``unknown`` (those of newer code that it has), ``media`` (whether media files were brought back too), and
        ``seconds`` by step.

    Raises:
        EngineError: a step failed; before the swap the database in use serves on.
    """
    wanted = wanted_database(docker)
    with external.reached(docker, wanted, lacking=True) as server:
        return _restore(docker, report, server, wanted, found, without_backup)


def _restore(
    docker: Docker, report: Report, server: Container, wanted: Database, found: dict[str, Any], without: bool
) -> dict[str, Any]:
    report.names = STEPS
    stack = docker.stack
    folder = stack.root / backup.FOLDER / found["id"]
    dump = folder / dump_feed.name_of(found)
    with report.step("check"):
        # What a restore or a drill that was killed has left takes the room that this one needs.
        throw_away.remove_left(docker)
        external.demand_restorable(docker, server, wanted)
        restore_database.drop_unfinished(docker, server, wanted)
        restore_media.settle(docker, wanted)
        backup_offsite.bring(stack, report, found)
        _demand_sound(docker, found, folder)
        _demand_room(docker, server, wanted, found)
    with report.step("backup"):
        restore_media.forget(docker, wanted)
        safety = _backed_up(docker, report, server, wanted, found, without)
        before = database.migrations(docker) if safety else []
        known = _known(docker, report)
        # It may have taken some.
        _demand_room(docker, server, wanted, found)
    room_for = _room(docker, _size(found) if stack.database else 0)
    stamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime())
    new, kept = f"{wanted.name}_new_{stamp}", f"{wanted.name}_before_{stamp}"
    stays = f"the database from before is {kept}, {f'and backup {safety.id}' if safety else 'and in no backup'}"
    try:
        if stack.release:
            at_boot.keep(stack, report)
            pending.begin(stack.root, Pending(stack.release, RESTORE, stack.release))
        # They are laid there while the database is loaded; a step of its own waits for what is left.
        with beside.begun(partial(restore_media.stage, docker, report, folder, found, kept, room_for)) as staged:
            with report.step("restore"):
                restore_database.create(docker, server, wanted, new)
                # Whose server it is, his are its roles.
                if stack.database:
                    verification.make_roles(server.id, wanted.user, folder)
                _load(docker, report, server, wanted, new, dump, found, staged.demand_well)
                loaded = verification.counted(docker, server.id, wanted.user, new)
                verification.demand_rows(docker, found.get("rows") or {}, loaded, "The restored database")
            with report.step("media"):
                media = staged.result()
        with report.step("stop"):
            verbs.stop_app(docker)
            if media:
                restore_media.stage_again(docker, report, folder, found)
        with report.step("swap"):
            restore_database.swap(docker, server, wanted, new, kept)
            restore_media.settle(docker, wanted)
    except BaseException as error:
        # What cannot be dropped now, the next restore drops.
        with suppress(EngineError):
            restore_database.drop(docker, server, wanted, new)
        _go_back(docker, report, wanted, error)
        raise
    with report.step("ready"):
        differs = _differs(known, before, database.migrations(docker))
        _serve(docker, report, found, differs, f"{stays[0].upper()}{stays[1:]}.")
    told = {"kept_as": kept, "safety": safety.id if safety else "", "before": stays, "media": media}
    return {**told, "lacking": differs.lacking, "unknown": differs.unknown, "seconds": dict(report.seconds)}


def _backed_up(
    docker: Docker, report: Report, server: Container, wanted: Database, found: dict[str, Any], without: bool
) -> Optional[backup.Backup]:
    """Back up what is there, so far as anything is and that is not waived."""
    if restore_database.size(docker, server, wanted) is None:
        # All goes on as if it had been there: wherever that is cut off, one database bears the name, and the media
        # files in use stay for as long as the one that is replaced.
        restore_database.create(docker, server, wanted, wanted.name)
        report.say(f"    database {wanted.name} was not there: no backup is made of it, and an empty one stands for it")
        return None
    if without:
        report.say("    no backup is made of what is there, as was asked for")
        return None
    try:
        return backup.create(docker, report, kind=backup.SAFETY)
    except EngineError as error:
        if isinstance(error, backup_room.NoRoomError) or "no space left" in error.problem.lower():
            raise
        raise EngineError(
            error.code,
            f"What is there now cannot be backed up: {error.problem}\nThat says nothing against backup {found['id']}, "
            "whose files are what was written. A restore keeps the database in use under the name "
            f"{wanted.name}_before_<time> in any case, and the media files with it.",
            f"{_again(docker.stack, found, without=True)}    (without a backup of what is there)",
        ) from error


def _demand_room(docker: Docker, server: Container, wanted: Database, found: dict[str, Any]) -> None:
    """The one in use goes on beside the new one: a full disk would end both. Whose server it is, his is its disk."""
    if not docker.stack.database:
        return
    try:
        backup_room.demand_to_restore(docker, _size(found), "The restored database")
    except backup_room.NoRoomError as error:
        kept = restore_database.kept(docker, server, wanted)
        if not kept:
            raise
        each = ", ".join(f"{name} ({taken / 2**20:.0f} MiB)" for name, taken in kept.items())
        shell, oldest = docker.stack.make("shell", f"ARGS={wanted.service}"), next(iter(kept))
        raise backup_room.NoRoomError(
            error.code,
            f"{error.problem} Restores have kept from before: {each}.",
            f"{shell}, and there: dropdb --username={wanted.user} {oldest}    (for good), or {error.remedy}",
        ) from None


def _size(found: dict[str, Any]) -> int:
    return int(found.get("database_bytes", found["bytes"]))


def _go_back(docker: Docker, report: Report, wanted: Database, cause: BaseException) -> None:
    """Have the release serve what was there; where that fails, it is told behind the cause and does not hide it."""
    try:
        try:
            restore_media.settle(docker, wanted)
        finally:
            recovery.serve(docker, report.apart("restore"))
    except EngineError as late:
        # The next run sees by the note that something is left to do.
        if not isinstance(cause, EngineError):
            raise
        told = f"{cause.problem}\nWhat was there does not serve again: {late.problem}"
        raise EngineError(cause.code, told, cause.remedy) from cause
    pending.end(docker.stack.root)


@dataclass(frozen=True)
class Differs:
    """How a restored database differs from a release's code.

    Attributes:
        lacking: migrations that it lacks.
        unknown: those of newer code that it has.
    """

    lacking: list[str]
    unknown: list[str]


def _known(docker: Docker, report: Report) -> list[Migration] | None:
    """The migrations of the release's code; None where it does not tell, which keeps nobody from restoring."""
    try:
        return image_migrations.of_release(docker)
    except EngineError as error:
        report.say(f"    whether the backup fits the code is not known: {error.problem}")
        return None


def _differs(known: Sequence[Migration] | None, before: Sequence[str], after: Sequence[str]) -> Differs:
    """Compare a restored database with the release's code, or where that does not tell, with the one it replaced."""
    if known is None:
        return Differs([name for name in before if name not in after], [])
    if not before and not after:
        # The project never migrated it.
        return Differs([], [])
    return Differs(image_migrations.pending(known, after), image_migrations.unknown(known, after))


def _newer(stack: Stack, found: dict[str, Any]) -> str:
    """What to type for code that is as new as a backup."""
    record = releases.read(stack.root, found["release"]) if found["release"] else None
    return stack.make("deploy", *([f"VERSION={record.sha}"] if record and record.sha else []))


def _serve(docker: Docker, report: Report, found: dict[str, Any], differs: Differs, kept: str) -> None:
    """Have the release serve again; rows of another age than its code are no fault of theirs, and stay."""
    stack = docker.stack
    try:
        recovery.serve(docker, report.apart("restore"))
    except EngineError as error:
        told = f"Backup {found['id']} is in place, but the code of release {stack.release} does not get ready on it"
        if not differs.lacking and not differs.unknown:
            raise EngineError(error.code, f"{told}. {kept}\n{error.problem}", error.remedy) from None
        # What comes next need not make anything whole first: it could not.
        pending.end(stack.root)
        if differs.lacking:
            why = f"knows migrations that the backup was made without: {', '.join(differs.lacking)}"
            applies = f"{stack.make('deploy')}    (applies them)"
            remedy = f"{stack.make('rollback')}    (to code that is as old), or {applies}"
        else:
            why = f"does not know migrations that the backup was made with: {', '.join(differs.unknown)}"
            remedy = f"{_newer(stack, found)}    (code that is as new)"
        raise EngineError(error.code, f"{told}: it {why}. {kept}\n{error.problem}", remedy) from None
    pending.end(stack.root)


def _room(docker: Docker, size: int) -> Callable[[int], None]:
    """Give what refuses media files that would not fit beside a database of so many bytes, which is loaded meanwhile.

    It judges by what is free now: what is loaded by then would be counted twice.
    """
    place = disk.engine_folder()
    free = disk.free(place)

    def room_for(media: int) -> None:
        wanted = media + size + docker.stack.limits.min_free_bytes
        if free is not None and free < wanted:
            raise EngineError(
                "backup",
                f"The media files of {media / 2**20:.0f} MiB would not fit beside the restored database: "
                f"{disk.lacking(place, free, wanted)} Nothing was changed.",
                disk.REMEDY,
            )

    return room_for


def wanted_database(docker: Docker) -> Database:
    """Give the stack's database.

    Raises:
        EngineError: it is external, and an earlier version of the kit did not write it down.
    """
    found = docker.stack.backed_up
    if found is None:
        problem = "This release knows no database that it could restore; it was rendered by an earlier kit."
        raise EngineError("backup", problem, docker.stack.make("deploy"))
    return found


def choose(docker: Docker, wanted: str) -> dict[str, Any]:
    """Find a backup.

    Args:
        docker: the stack's containers.
        wanted: its id, or ``latest`` for the newest good one on this host, one that it made itself before one that was
            fetched of another; where there is none, the newest off-site (backup_offsite.manifest_of). One of what a
            restore has replaced, or was to, is neither: it is restored by its id.

    Returns:
        Its manifest; one that lies off-site only is not brought here yet (backup_offsite.bring).

    Raises:
        EngineError: there is none.
    """
    stack = docker.stack
    if wanted == NEWEST:
        good = [one for one in backup.listed(stack.root) if not one["problem"] and one["kind"] != backup.SAFETY]
        chosen = next(iter(sorted(good, key=lambda one: bool(backup.elsewhere(one)))), None)
    else:
        chosen = next((one for one in backup.listed(stack.root) if one["id"] == wanted), None)
    here = wanted != NEWEST and (stack.root / backup.FOLDER / wanted).is_dir()
    if chosen is None and not here:
        chosen = backup_offsite.manifest_of(stack, "" if wanted == NEWEST else wanted)
    if here and chosen is None:
        problem = f"The manifest of backup {wanted} is missing, or is not what was written."
        remedy = backup_offsite.instead(stack, wanted) or stack.make("backups") + "    (choose another)"
        raise EngineError("backup", f"{problem} Nothing was changed.", remedy)
    if chosen is None:
        raise EngineError(
            "backup", f"There is no backup {wanted} under {stack.root / backup.FOLDER}.", stack.make("backups")
        )
    return chosen


def _demand_sound(docker: Docker, found: dict[str, Any], folder: Path) -> None:
    """Refuse what is not whole, or not this database's."""
    stack = docker.stack
    if (found["project"], found["env"]) != (stack.project, stack.env):
        problem = f"Backup {found['id']} is of {found['project']}, not of {stack.project}."
        raise EngineError("backup", f"{problem} Nothing was changed.", stack.make("backups"))
    with backup_notes.judged(folder, found):
        with backup_offsite.copy_named(stack, found, "restore"):
            verification.checksum(docker, folder, found)
        # The dump is compared with what was written on its way into the new database.
        media_away.demand_there(docker, found)
    major = database.server_version(docker).partition(".")[0]
    if int(found["server"].partition(".")[0]) > int(major):
        problem = f"Backup {found['id']} was made by PostgreSQL {found['server']}, this server is {major}."
        raise EngineError("backup", f"{problem} Nothing was changed.", "restore it on a server as new as that")


def _load(
    docker: Docker, report: Report, server: Container, wanted: Database, new: str, dump: Path, found: dict[str, Any],
    look: Callable[[], None],
) -> None:  # fmt: skip
    # What stands for a server of somebody else's is a client, whose processors are not the server's.
    cpus = 0.0 if isinstance(wanted, External) else server.cpus
    count = jobs.to_load(docker.stack.backup, _size(found), found, cpus)
    target = parallel.Target(server.id, external.way(docker, server, wanted), wanted.user, new)
    fed = parallel.load(docker, report, target, dump, found, count, "restored", look=look)
    verification.demand_fed(docker, fed, "The backup cannot be restored")
