"""Folders and files of the host that containers mount, made with the right owner before anything starts."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Optional

from kit_engine import stack as stacks
from kit_engine.base_images.record import read_record
from kit_engine.docker import Docker
from kit_engine.errors import EngineError
from kit_engine.stack import Source, Stack

# Compose mounts a secret's file as it is: readable by its one user, or by all inside a folder that only we may enter.
OWNED_MODE, SHARED_MODE = 0o400, 0o444
# Where web's containers put the sockets that nginx reaches them by.
SOCKETS = "shared/run"
# What says whether nginx answers with the maintenance page, and to whom.
MAINTENANCE = "shared/nginx/maintenance"
# nginx's files, certificates, and what an ACME client writes for port 80 to show.
EDGE_FOLDERS = ("shared/nginx/conf", "shared/nginx/ssl", "shared/nginx/acme/.well-known/acme-challenge", MAINTENANCE)


def folders(stack: Stack) -> None:
    """Make what Compose's project directory needs.

    Args:
        stack: whose deploy root; its log folder is handed to the user that the app runs as.

    Raises:
        EngineError: the log folder belongs to somebody else and we are not root.
    """
    (stack.root / "shared/compose").mkdir(parents=True, exist_ok=True)
    (stack.root / "records").mkdir(exist_ok=True)
    if stack.has_edge:
        # Compose would refuse to mount what is not there.
        for name in EDGE_FOLDERS:
            public_folder(stack.root, name)
    if stack.app_files is None:
        return
    _give(stack.root / "shared/logs", stack.app_files.uid)
    if stack.edge:
        # Entered by nginx's group and nobody else: who connects here is believed about the client.
        for folder in (stack.root / SOCKETS, socket_folder(stack)):
            _give(folder, stack.app_files.uid, stack.edge.uid, 0o710)


def socket_folder(stack: Stack) -> Path:
    """Where a release's web containers put their sockets."""
    return stack.root / SOCKETS / (stack.release or stacks.CURRENT)


def _give(folder: Path, uid: int, gid: Optional[int] = None, mode: Optional[int] = None) -> None:
    """Make a folder that the app's user may write to."""
    gid = uid if gid is None else gid
    folder.mkdir(exist_ok=True)
    found = folder.stat()
    if mode is not None and stat.S_IMODE(found.st_mode) != mode:
        folder.chmod(mode)
    if found.st_uid == uid:
        return
    if os.geteuid() != 0:
        raise EngineError(
            "files",
            f"{folder} belongs to user {found.st_uid}, the app runs as {uid}.",
            f"sudo chown {uid}:{gid} {folder}",
        )
    os.chown(folder, uid, gid)


def public_folder(root: Path, name: str) -> None:
    """Make a folder, and those it lies in, that containers' users can enter whatever our umask is.

    Args:
        root: the deploy root.
        name: path below it.
    """
    path = root
    for part in Path(name).parts:
        path = path / part
        if not path.is_dir():
            # Another call may be making it as well.
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)


def give_back(root: Path) -> None:
    """As root, hand what the engine keeps to the deploy root's owner: who may use Docker next time without sudo.

    Args:
        root: the deploy root. Secrets, and what containers write, keep the owners that they need.
    """
    if os.geteuid() != 0 or not root.is_dir():
        return
    owner = root.stat()
    for name in ("bin", "records", "shared"):
        places = [root / name, *(root / name).glob("*")]
        for place in places:
            if place.exists() and place.name not in ("logs", "run") and place.lstat().st_uid != owner.st_uid:
                os.lchown(place, owner.st_uid, owner.st_gid)


def secrets(docker: Docker, *, drop: bool = True, into: Collection[str] = ()) -> bool:
    """Put the bundle's secret files where Compose mounts them from, owned by the user that reads them.

    Args:
        docker: the stack's containers; images are on this host.
        drop: whether files that the bundle does not have go; containers of another release may mount them still.
        into: files whose containers shall find the new content too. What is mounted is a file, not its name: containers
            that have an earlier one keep that.

    Returns:
        Whether a file was written or removed.

    Raises:
        EngineError: services that run as different users want the same secret.
    """
    target = docker.stack.root / "shared/secrets"
    wanted = wanted_secrets(docker.stack.bundle)
    if not wanted and not target.is_dir():
        return False
    target.mkdir(mode=0o700, exist_ok=True)
    readers = _readers(docker) if wanted else {}
    differing = [name for name, content in wanted.items() if not _holds(target / name, content, readers.get(name, 0))]
    strangers = [path for path in target.iterdir() if path.name not in wanted] if drop else []
    for name in differing:
        if name in into and (target / name).is_file():
            _write_into(target / name, wanted[name])
        _place(target / name, wanted[name], readers.get(name, 0))
    for path in strangers:
        path.unlink()
    return bool(differing or strangers)


def wanted_secrets(bundle: Path) -> dict[str, bytes]:
    """Read the secrets of a release that containers mount, by their file's name."""
    source = bundle / "secrets"
    found = sorted(source.glob("*")) if source.is_dir() else []
    return {path.name: path.read_bytes() for path in found if path.name not in stacks.ENGINE_SECRETS}


def writable_paths(source: Source) -> list[str]:
    """Make the paths that the project writes inside its mounted source, and hand them to the user it runs as.

    Args:
        source: the folder; nothing in it but its declared writable paths is touched.

    Returns:
        What was made or handed over.

    Raises:
        EngineError: a path leads out of the source, or belongs to somebody else and we are not root.
    """
    done = []
    root = source.path.resolve()
    for name in source.writable_paths:
        path = root / name
        if not path.resolve().is_relative_to(root):
            raise EngineError(
                "source", f"Writable path {name} leads out of {root}.", "correct writable_paths in the manifest"
            )
        if not path.is_dir():
            _make(path, root, source)
            done.append(name)
        elif _hand_over(path, source):
            done.append(name)
    return done


def _make(path: Path, root: Path, source: Source) -> None:
    missing = [folder for folder in (path, *path.parents) if folder.is_relative_to(root) and not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir()
            if os.geteuid() == 0:
                os.chown(folder, source.uid, source.gid)
    except OSError as error:
        raise EngineError(
            "source", f"{path} cannot be made: {error.strerror}.", f"sudo install -d -o {source.uid} {path}"
        ) from None


def _hand_over(path: Path, source: Source) -> bool:
    """Give a folder with all in it to the user that the app runs as."""
    changed = False
    for folder, folders_inside, files in os.walk(path):
        # Plain strings, as os.walk gives them: a media folder may hold many thousands.
        for entry in [folder, *(os.path.join(folder, name) for name in [*folders_inside, *files])]:  # noqa: PTH118
            if os.lstat(entry).st_uid == source.uid:
                continue
            if os.geteuid() != 0:
                raise EngineError(
                    "source",
                    f"{entry} belongs to user {os.lstat(entry).st_uid}, the app runs as {source.uid}.",
                    f"sudo chown -R {source.uid}:{source.gid} {path}",
                )
            os.lchown(entry, source.uid, source.gid)
            changed = True
    return changed


def _holds(path: Path, content: bytes, uid: int) -> bool:
    try:
        return path.read_bytes() == content and (os.geteuid() != 0 or path.stat().st_uid == uid)
    except OSError:
        return False


def _write_into(path: Path, content: bytes) -> None:
    """Give a file another content at once, as whoever reads it just then takes it."""
    path.chmod(0o200 | stat.S_IMODE(path.stat().st_mode))
    with path.open("r+b", buffering=0) as file:
        file.write(content)
        file.truncate()


def _place(path: Path, content: bytes, uid: int) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_bytes(content)
    if os.geteuid() == 0:
        os.chown(temporary, uid, -1)
        temporary.chmod(OWNED_MODE)
    else:
        temporary.chmod(OWNED_MODE if uid in (0, os.geteuid()) else SHARED_MODE)
    temporary.replace(path)


def _readers(docker: Docker) -> dict[str, int]:
    """Find the numeric user that reads each secret file, from Compose's own reading of the file and the images."""
    config = docker.configuration
    files = {name: Path(entry["file"]).name for name, entry in (config.get("secrets") or {}).items()}
    readers: dict[str, int] = {}
    for service, entry in config["services"].items():
        for secret in entry.get("secrets") or ():
            uid = _reader(docker, entry)
            name = files[secret["source"]]
            if readers.setdefault(name, uid) != uid:
                raise EngineError(
                    "secrets",
                    f"Secret {name} is read by users {readers[name]} and {uid} ({service}); a file has one owner.",
                    "give those services one user in compose/services",
                )
    return readers


def _reader(docker: Docker, service: Mapping[str, Any]) -> int:
    """The user that a service's server runs as: the service's own, the image's, or the one its entrypoint becomes.

    The last one is no fact of the image that Docker could tell; role base_images found it out and noted it.
    """
    image = str(service["image"])
    uid = docker.image_uid(image, str(service.get("user") or ""))
    noted = read_record(docker.stack.root / "records/base_images.json")["images"].values()
    return next((int(facts["uid"]) for facts in noted if uid == 0 and facts["ref"] == image), uid)
