"""nginx's files on the host: a new set lies beside the old, is judged by nginx, and is taken by a reload.

nginx mounts ``shared/nginx/conf``; its link ``current`` leads to the set in use, whose name is the hash of its content.

It mounts ``shared/run`` too, where link ``live`` leads to the sockets of the release that serves. nginx follows it at
each request, so that replacing it is the switch from release to release: whole at once, without a reload, which would
close visitors' connections, and the same after a restart of nginx or of the host.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from kit_engine import bundle, command, prepare
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.stack import CURRENT, EDGE, Stack

# Where the Compose file mounts shared/nginx/conf.
MOUNTED = "/etc/nginx/kit"
# In the folder of sockets: leads to those of the release that serves.
LIVE = "live"
# Beside it, while nginx is about to reload: the app's answers close their connections (nginx/conf.d/default.conf.j2).
CLOSING = "closing"
# A client that is at work sends its next request within this, and so leaves before a reload ends what is idle.
CLOSING_SECONDS = 2.0
# A set that was replaced stays, for nginx to go back to; older ones go.
KEPT = 2
# Names the set that nginx was seen to use: the link alone would not tell of a reload that never came.
LOADED = ".loaded"
# nginx starts its new workers within 0.1 s of a reload; far more means that it refused.
RELOAD_SECONDS = 10.0
POLL_SECONDS = 0.05
_NAME_LENGTH = 16


def wanted(stack: Stack) -> str:
    """Name the set of nginx's files that the release holds; empty for a stack without nginx."""
    source = stack.bundle / "nginx"
    return bundle.hash_of(source)[:_NAME_LENGTH] if stack.has_edge and source.is_dir() else ""


def is_current(stack: Stack) -> bool:
    """Tell whether nginx's files on the host are those of the release."""
    name, folder = wanted(stack), _folder(stack)
    if not name:
        return True
    try:
        return _linked(folder / CURRENT) == name == (folder / LOADED).read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


def leads_to(stack: Stack) -> bool:
    """Tell whether nginx asks this release's web; of a stack without nginx, it is always so."""
    return not stack.has_edge or _linked(stack.root / prepare.SOCKETS / LIVE) == prepare.socket_folder(stack).name


def lead_to(stack: Stack) -> None:
    """Have nginx ask this release's web from the next request on."""
    if not leads_to(stack):
        _link(stack.root / prepare.SOCKETS / LIVE, prepare.socket_folder(stack).name)


def in_hand(containers: Sequence[Container]) -> int:
    """Count the requests that nginx has handed to web containers and that are not answered yet.

    Args:
        containers: of web.

    Returns:
        How many connections there are to their sockets, accepted or waiting; 0 where the system does not tell.
    """
    count = 0
    for item in containers:
        try:
            rows = Path(f"/proc/{item.pid}/net/unix").read_text(encoding="utf-8").splitlines()[1:]
        except OSError:
            continue
        # Num RefCount Protocol Flags Type St Inode Path; the listening socket itself carries the flag 10000.
        found = [row.split() for row in rows if row.endswith(".sock")]
        count += sum(row[3] != "00010000" and f"/{item.release}/" in row[-1] for row in found)
    return count


def stage(docker: Docker, running: Optional[Container]) -> bool:
    """Lay the release's set beside the one in use, and have nginx judge it.

    Args:
        docker: the stack's containers.
        running: nginx's container if it goes on running; else the set is judged in a container of its own.

    Returns:
        Whether it is another set than the one in use.

    Raises:
        EngineError: nginx refuses it; the one in use stays, and nothing of the new one is left.
    """
    stack = docker.stack
    # Of a reload that was cut off.
    (stack.root / prepare.SOCKETS / CLOSING).unlink(missing_ok=True)
    if is_current(stack):
        return False
    folder, name = _folder(stack), wanted(stack)
    if not (folder / name).is_dir():
        _copy(stack.bundle / "nginx", folder / name)
    test = ("nginx", "-t", "-q", "-c", f"{MOUNTED}/{name}/nginx.conf")
    done = docker.execute(running, test, limit=command.QUICK_SECONDS) if running else _judged_apart(docker, test)
    if done.code:
        shutil.rmtree(folder / name)
        raise EngineError(
            "nginx",
            f"nginx refuses the release's configuration; the one in use stays:\n{command.tail(done.err or done.out)}",
            f"mend nginx.extra in the manifest, or the certificate named above, then: {stack.make('deploy')}",
        )
    return True


def link(stack: Stack) -> None:
    """Lead nginx's next start to the release's set, which was staged; one that runs reads nothing yet."""
    _link(_folder(stack) / CURRENT, wanted(stack))


def activate(docker: Docker, before: Sequence[Container]) -> None:
    """See to it that nginx uses the release's set, which was staged: by a reload where it went on running.

    Args:
        docker: the stack's containers; nginx runs.
        before: all that there were before the release started any.

    Raises:
        EngineError: nginx did not take it; it uses the earlier one again.
    """
    stack = docker.stack
    folder, name = _folder(stack), wanted(stack)
    earlier = (folder / LOADED).read_text(encoding="utf-8") if (folder / LOADED).is_file() else ""
    went_on = {(item.id, item.started) for item in before}
    link(stack)
    for container in docker.of(EDGE):
        if (container.id, container.started) in went_on:
            try:
                reload(docker, container)
            except BaseException:
                if earlier and (folder / earlier).is_dir():
                    _link(folder / CURRENT, earlier)
                    docker.hang_up(container)
                raise
    # Last: whoever is cut off before it reloads once more.
    (folder / LOADED).write_text(name, encoding="utf-8")
    _drop_older(folder, {name, earlier})


def reload(docker: Docker, container: Container) -> None:
    """Have nginx read its files anew, without a gap, and see it done.

    At a reload nginx closes the connections that are idle, and a request that is on its way there is lost: visitors'
    connections are closed with an answer before that.

    Args:
        docker: the stack's containers.
        container: nginx's, running. Its files were judged before: on a bad one it would go on as before, silently.

    Raises:
        EngineError: no new generation of workers took over in time.
    """
    closing = docker.stack.root / prepare.SOCKETS / CLOSING
    closing.touch()
    try:
        time.sleep(CLOSING_SECONDS)
        _hang_up(docker, container)
    finally:
        closing.unlink(missing_ok=True)


def _hang_up(docker: Docker, container: Container) -> None:
    before = _workers(container)
    told = docker.hang_up(container)
    if told.code:
        raise EngineError(
            "nginx",
            f"nginx cannot be told to reload, and goes on with what it has:\n{command.tail(told.err)}",
            docker.stack.make("logs", "ARGS=nginx"),
        )
    end = time.monotonic() + RELOAD_SECONDS
    while time.monotonic() < end:
        found = _workers(container)
        if found and not found & before:
            return
        time.sleep(POLL_SECONDS)
    raise EngineError(
        "nginx",
        f"nginx did not take its new configuration within {RELOAD_SECONDS:.0f} s and goes on with the earlier one:\n"
        f"{docker.last_log_lines(container)}",
        docker.stack.make("logs", "ARGS=nginx"),
    )


def _workers(container: Container) -> set[str]:
    """Process ids of the workers that take new connections."""
    told = command.demand(
        ["docker", "top", container.id, "-eo", "pid,args"], code="nginx", remedy="docker ps    (does nginx run?)"
    )
    rows = (line.split(None, 1) for line in told.out.splitlines()[1:])
    return {pid for pid, *words in rows if words and words[0].strip() == "nginx: worker process"}


def _judged_apart(docker: Docker, test: Sequence[str]) -> command.Done:
    """Ask an nginx of the release's own image, with the same folders and neither network nor ports."""
    service = docker.configuration["services"][EDGE]
    words = ["docker", "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", f"--user={service['user']}"]
    for mount in service["volumes"]:
        if mount["type"] == "bind":
            words.append(f"--mount=type=bind,source={mount['source']},target={mount['target']},readonly")
    return command.run([*words, service["image"], *test], limit=command.QUICK_SECONDS)


def _copy(source: Path, target: Path) -> None:
    """Copy a set under its name in one step, readable by nginx's user."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        shutil.copytree(source, new, dirs_exist_ok=True)
        for path in (new, *new.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _drop_older(folder: Path, kept: set[str]) -> None:
    others = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name not in kept]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[max(0, KEPT - len(kept - {""})) :]:
        shutil.rmtree(path)


def _folder(stack: Stack) -> Path:
    return stack.root / "shared/nginx/conf"


def _linked(link: Path) -> str:
    return link.readlink().name if link.is_symlink() else ""


def _link(link: Path, name: str) -> None:
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(name)
    new.replace(link)
