"""Which migrations an image brings, asked without a database, and how those differ from what a database has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from kit_engine import command, one_off
from kit_engine.docker import Docker, image_id
from kit_engine.errors import EngineError

# Importing a large project's settings and apps takes a few seconds on a slow host.
SECONDS = 120.0
_MARK = "kit-migrations: "
_QUESTION = (
    "import json\n"
    "from django.db.migrations.loader import MigrationLoader\n"
    "found = MigrationLoader(None, ignore_no_migrations=True).disk_migrations\n"
    "told = [['.'.join(key), ['.'.join(old) for old in one.replaces]] for key, one in found.items()]\n"
    f"print({_MARK!r} + json.dumps(told))\n"
)


@dataclass(frozen=True)
class Migration:
    """A migration by name, such as ``auth.0001_initial``, and those that it replaces (a squashed one)."""

    name: str
    replaces: tuple[str, ...] = ()


def of_image(
    reference: str,
    manage: Sequence[str],
    environment: Mapping[str, str],
    *,
    scratch: Sequence[str] = (),
    source: Optional[Path] = None,
) -> list[Migration]:
    """List the migrations of an image, in a container that has no network and leaves nothing.

    Args:
        reference: the app's image.
        manage: the words that start the project's manage.py.
        environment: what its settings need to be imported; no secrets, since a host's users see them.
        scratch: folders that the settings may write to.
        source: mounted over the image's own, where an environment does so.

    Returns:
        All that are on its disk, sorted by name.

    Raises:
        EngineError: the image is not here, or the project cannot be imported.
    """
    if not image_id(reference):
        raise EngineError("image", f"image {reference} is not here yet", "make deploy    (brings it)")
    name = f"kit-plan-{os.getpid()}"
    words = ["docker", "run", "--rm", "--name", name, "--pull", "never", "--network", "none", "--cap-drop", "ALL"]
    words += ["--security-opt", "no-new-privileges:true", "--log-driver", "none"]
    for folder in ("/tmp", *scratch):  # noqa: S108 - inside the container
        words += ["--tmpfs", f"{folder}:mode=1777"]
    if source is not None:
        words += ["--volume", f"{source}:/app:ro"]
    for variable, value in {**environment, "PYTHONDONTWRITEBYTECODE": "1"}.items():
        words += ["--env", f"{variable}={value}"]
    try:
        done = command.run(
            [*words, "--entrypoint", manage[0], reference, *manage[1:], "shell", "-v", "0", "-c", _QUESTION],
            limit=SECONDS,
        )
    except BaseException:
        # The client is gone, its container is not.
        command.run(["docker", "rm", "--force", name])
        raise
    return _told(done, f"image {reference}")


def of_release(docker: Docker) -> list[Migration]:
    """List the migrations of a release's code, in a container of its own that is like web's.

    Args:
        docker: the release.

    Returns:
        All that are on its disk, sorted by name.

    Raises:
        EngineError: the project cannot be imported, or that took too long.
    """
    words = (*docker.stack.manage, "shell", "-v", "0", "-c", _QUESTION)
    return _told(one_off.run(docker, words, limit=SECONDS), f"release {docker.stack.release}")


def _told(done: command.Done, whose: str) -> list[Migration]:
    told = next((line[len(_MARK) :] for line in done.out.splitlines() if line.startswith(_MARK)), None)
    if told is None:
        said = command.tail(done.err or done.out, 1).strip()
        raise EngineError("migrations", f"{whose} does not tell its migrations: {said}", "make logs")
    return sorted((Migration(one, tuple(old)) for one, old in json.loads(told)), key=lambda one: one.name)


def unknown(there: Sequence[Migration], applied: Sequence[str]) -> list[str]:
    """Name the migrations of newer code that a database has.

    Args:
        there: all of a release.
        applied: those that the database has, in the order they were applied.

    Returns:
        Their names: of those that the release does not have, the ones applied after all that it has. Earlier ones are
        its own, squashed or removed since.
    """
    known = {name for one in there for name in (one.name, *one.replaces)}
    last = max((number for number, name in enumerate(applied) if name in known), default=-1)
    return list(applied[last + 1 :])


def pending(there: Sequence[Migration], applied: Iterable[str]) -> list[str]:
    """Name the migrations that ``migrate`` would apply.

    Args:
        there: all of the new release.
        applied: those that the database has.

    Returns:
        Their names. Of a squashed one and those that it replaces only what Django would take: the old ones where the
        database has some of them and not all, else the squashed one.
    """
    done = set(applied)
    left_out: set[str] = set()
    for one in there:
        if not one.replaces:
            continue
        have = done & set(one.replaces)
        if have == set(one.replaces):
            done.add(one.name)
        left_out |= {one.name} if have and have != set(one.replaces) else set(one.replaces)
    return [one.name for one in there if one.name not in done | left_out]
