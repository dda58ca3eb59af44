"""The certificates on this host: ``shared/nginx/ssl/<name>/<serial>/`` behind the link ``current``, and what is served.

Installing one needs no release. It is judged first, and where anything fails the link leads to the old one again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional
from urllib.parse import urlsplit

from kit_engine import certificate_checks, command, edge, prepare, x509
from kit_engine.certificate_checks import Pair, Wanted
from kit_engine.docker import Container, Docker
from kit_engine.errors import EngineError
from kit_engine.releases import sync_folder
from kit_engine.stack import CURRENT, EDGE, Probe
from kit_engine.x509 import Certificate

FOLDER = "shared/nginx/ssl"
# Where the Compose file mounts it.
MOUNTED = "/etc/nginx/ssl"
CHAIN, KEY = "fullchain.pem", "privkey.pem"
# nginx's user alone reads the key; the chain is told to every visitor anyway.
CHAIN_MODE, KEY_MODE, FOLDER_MODE = 0o444, 0o400, 0o755
REFUSED = "edge_configuration"
# nginx makes these folders even to judge a file, and may write nowhere else.
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
# nginx answers with the new certificate some 0.1 s after the signal; a busy host may take seconds.
SERVED_SECONDS, POLL_SECONDS, ANSWER_SECONDS = 20.0, 0.1, 5.0
# Of two installs at once the second waits this long for the first, which may have to go back to the old one.
TURN_SECONDS = 2 * SERVED_SECONDS + 10


@dataclass(frozen=True)
class Place:
    """Where a site's certificates lie.

    Attributes:
        root: the deploy root.
        name: of the project.
        uid: number of the user that nginx runs as.
    """

    root: Path
    name: str
    uid: int

    @property
    def folder(self) -> Path:
        """The folder of all of them."""
        return self.root / FOLDER / self.name

    @property
    def link(self) -> Path:
        """What leads to the one in use."""
        return self.folder / CURRENT

    @property
    def current(self) -> str:
        """Name of the folder in use; empty where there is none."""
        return self.link.readlink().name if self.link.is_symlink() and self.link.is_dir() else ""

    def chain(self, folder: str = CURRENT) -> list[Certificate]:
        """Read a chain; empty where there is none that can be read."""
        try:
            return x509.read_all((self.folder / folder / CHAIN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []


def facts(place: Place, probe: Optional[Probe]) -> dict[str, Any]:
    """Tell what is installed, and whether it is what visitors get.

    Args:
        place: of the site's certificates.
        probe: where the site answers; None: nobody is asked.

    Returns:
        Empty where none is installed; ``served`` is None where nothing answers.
    """
    chain = place.chain()
    if not chain:
        return {}
    own = chain[0]
    answering = served(probe) if probe else None
    return {
        "serial": own.serial,
        "names": list(own.names),
        "not_after": own.not_after,
        "sha256": x509.fingerprint(chain),
        "self_signed": own.self_issued,
        "served": None if answering is None else answering.der == own.der,
        "served_serial": "" if answering is None else answering.serial,
    }


def installed(place: Place) -> list[dict[str, Any]]:
    """List all that lie on this host, the one in use first."""
    current = place.current
    rows = []
    for path in sorted(place.folder.glob("*"), key=lambda one: (one.name != current, one.name)):
        chain = [] if path.is_symlink() else place.chain(path.name)
        if chain:
            own = chain[0]
            rows.append(
                {
                    "folder": path.name,
                    "serial": own.serial,
                    "names": list(own.names),
                    "not_after": own.not_after,
                    "days_left": certificate_checks.days_left(own.not_after),
                    "self_signed": own.self_issued,
                    "current": path.name == current,
                }
            )
    return rows


def install(place: Place, pair: Pair, wanted: Wanted, docker: Optional[Docker]) -> bool:
    """Bring a certificate into use.

    Args:
        place: where the site's certificates lie.
        pair: certificate and key.
        wanted: what they must be good for.
        docker: containers of the stack that is there; None before the first release. Where nginx runs, it serves the
            new certificate afterwards.

    Returns:
        Whether anything changed.

    Raises:
        EngineError: it is refused, or nginx would not serve it; the old one is in use as before. Or another install is
            under way and does not end.
    """
    chain = certificate_checks.judge(pair, wanted)
    if os.geteuid() not in (0, place.uid):
        raise EngineError(
            "files",
            f"{place.folder}: the key must belong to nginx's user {place.uid}, and only root can hand it over.",
            "repeat the command with sudo",
        )
    prepare.public_folder(place.root, f"{FOLDER}/{place.name}")
    with turn(place):
        return _install(place, chain, pair.key, docker)


@contextlib.contextmanager
def turn(place: Place) -> Iterator[None]:
    """Be the only one who changes a site's certificates; the end of the process, however it ends, gives that up.

    Args:
        place: of the site's certificates; its folder is there.

    Raises:
        EngineError: another install goes on and on.
    """
    # The folder itself is locked: a file for that would stay behind.
    descriptor = os.open(place.folder, os.O_RDONLY | os.O_DIRECTORY)
    end = time.monotonic() + TURN_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise EngineError(
                        "locked",
                        f"Another certificate is being installed in {place.folder}, and that has not ended within "
                        f"{TURN_SECONDS:.0f} s.",
                        "pgrep -af 'engine.pyz|kit_engine'    (who is it?), then repeat the command",
                    ) from None
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _install(place: Place, chain: list[Certificate], key: str, docker: Optional[Docker]) -> bool:
    before = place.current
    folder, made = _lay_down(place, chain, key)
    if folder != before:
        try:
            _judged_by_nginx(place, folder, docker)
        except BaseException:
            if made:
                shutil.rmtree(place.folder / folder)
            raise
        # nginx reads it at the next handshake; earlier sets of its files want a reload.
        _lead(place, folder)
    try:
        changed = bring_to_visitors(docker, chain[0])
    except BaseException as error:
        if folder != before:
            _go_back(place, before, docker, reloaded=not _is_refusal(error))
            if made:
                shutil.rmtree(place.folder / folder)
        raise
    if folder != before:
        _prune(place, (folder, before))
    return changed or made or folder != before


def bring_to_visitors(docker: Optional[Docker], own: Certificate) -> bool:
    """See to it that nginx serves a certificate that is in its place.

    Args:
        docker: containers of the stack that is there, if any.
        own: the site's own certificate.

    Returns:
        Whether nginx had to read its files anew.

    Raises:
        EngineError: nginx refuses its configuration (``edge_configuration``), or goes on serving another certificate.
    """
    if docker is None or not _running(docker):
        return False
    probe = docker.stack.probe
    answering = served(probe)
    if answering is not None and answering.der == own.der:
        return False
    reload_edge(docker)
    end = time.monotonic() + SERVED_SECONDS
    while True:
        answering = served(probe)
        if answering is not None and answering.der == own.der:
            return True
        if time.monotonic() > end:
            told = f"serial {answering.serial}" if answering else "none at all"
            raise EngineError(
                "certificate_served",
                f"nginx was told to read certificate {own.serial}, and {probe.url} still shows {told} for {probe.host} "
                f"after {SERVED_SECONDS:.0f} s.",
                docker.stack.make("logs", f"ARGS={EDGE}"),
            )
        time.sleep(POLL_SECONDS)


def served(probe: Probe) -> Optional[Certificate]:
    """Ask the site for its certificate, as a visitor does.

    Args:
        probe: address and host name.

    Returns:
        None where nothing answers with one.
    """
    parts = urlsplit(probe.url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Whatever is served shall be seen, the worst above all.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        address = (parts.hostname or "127.0.0.1", parts.port or 443)
        with (
            socket.create_connection(address, timeout=ANSWER_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=probe.host) as connection,
        ):
            der = connection.getpeercert(binary_form=True)
        return x509.read(der) if der else None
    except (OSError, ValueError):
        return None


def reload_edge(docker: Docker) -> None:
    """Have nginx judge its files and, only if they are good, read them; requests in flight are answered.

    Args:
        docker: the stack's containers; nginx runs.

    Raises:
        EngineError: nginx finds them wrong (``edge_configuration``), or does not take them; it goes on as before.
    """
    for container in _running(docker):
        words = ("nginx", "-t", "-q", "-c", f"{edge.MOUNTED}/{CURRENT}/nginx.conf")
        judged = docker.execute(container, words, limit=command.QUICK_SECONDS)
        if judged.code:
            raise EngineError(
                REFUSED,
                f"nginx refuses its configuration, and goes on with the one before:\n{command.tail(judged.err)}",
                docker.stack.make("logs", f"ARGS={EDGE}"),
            )
        edge.reload(docker, container)


def _judged_by_nginx(place: Place, folder: str, docker: Optional[Docker]) -> None:
    """Have the nginx that runs read a certificate before it is led to it; it has a user and an OpenSSL of its own."""
    if docker is None:
        return
    mounted = f"{MOUNTED}/{place.name}/{folder}"
    server = f"listen 8443 ssl; ssl_certificate {mounted}/{CHAIN}; ssl_certificate_key {mounted}/{KEY};"
    temporary = " ".join(f"{kind}_temp_path /tmp/{kind};" for kind in _TEMPORARY)
    told = (
        f"pid /tmp/judged.pid; error_log stderr warn; events {{}} http {{ access_log off; {temporary} "
        f"server {{ {server} }} }}\n"
    )
    for container in _running(docker):
        # From a file: nginx asks for its size first.
        words = ("sh", "-c", "cat > /tmp/judged.conf && exec nginx -t -q -c /tmp/judged.conf")
        judged = docker.execute(container, words, stdin=told, limit=command.QUICK_SECONDS)
        if judged.code:
            raise EngineError(
                REFUSED,
                f"nginx refuses the certificate, and goes on with the one before:\n{command.tail(judged.err)}",
                f"ls -l {place.folder / folder}    (may user {place.uid} read both?)",
            )


def _running(docker: Docker) -> list[Container]:
    return [container for container in docker.of(EDGE) if container.running]


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, EngineError) and error.code == REFUSED


def _lay_down(place: Place, chain: list[Certificate], key: str) -> tuple[str, bool]:
    """Put chain and key into a folder of their own, whole or not at all; tell its name, and whether it was made."""
    name = chain[0].serial
    if (place.folder / name).exists() and not _holds(place, name, chain):
        # An authority's carelessness, or the same certificate with other ones behind it.
        name = f"{name}-{x509.fingerprint(chain)[:8]}"
    if (place.folder / name).exists() and _holds(place, name, chain):
        return name, False
    incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=place.folder))
    try:
        _write(incoming / CHAIN, "".join(one.pem for one in chain), CHAIN_MODE, None)
        _write(incoming / KEY, key, KEY_MODE, place.uid)
        incoming.chmod(FOLDER_MODE)
        sync_folder(incoming)
        shutil.rmtree(place.folder / name, ignore_errors=True)
        incoming.rename(place.folder / name)
    except BaseException:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    sync_folder(place.folder)
    return name, True


def _holds(place: Place, name: str, chain: list[Certificate]) -> bool:
    return [one.der for one in place.chain(name)] == [one.der for one in chain] and _key_is_right(place, name)


def _key_is_right(place: Place, name: str) -> bool:
    """Whether the key is there and nginx's; it belongs to the chain beside it, as nothing else was ever laid down."""
    key = place.folder / name / KEY
    return key.is_file() and key.stat().st_uid == place.uid and key.stat().st_mode & 0o777 == KEY_MODE


def _write(path: Path, text: str, mode: int, uid: Optional[int]) -> None:
    # Created with its final mode: the key is readable by nobody else at any moment.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(descriptor, mode)
        if uid is not None and os.geteuid() == 0:
            os.fchown(descriptor, uid, uid)
        os.fsync(descriptor)


def _lead(place: Place, folder: str) -> None:
    """Lead the link to another folder, in one step."""
    new = place.link.with_name(f".{CURRENT}.new")
    new.unlink(missing_ok=True)
    # Relative: in the container the folder lies elsewhere.
    new.symlink_to(folder)
    new.replace(place.link)
    sync_folder(place.folder)


def _go_back(place: Place, before: str, docker: Optional[Docker], *, reloaded: bool) -> None:
    if before:
        _lead(place, before)
    else:
        place.link.unlink()
    if docker is not None and reloaded and before:
        # Why it failed is told already, and is the better reason.
        with contextlib.suppress(EngineError):
            bring_to_visitors(docker, place.chain()[0])


def _prune(place: Place, kept: Collection[str]) -> None:
    """Remove what is neither in use nor was before; an interrupted install's remains too."""
    for path in place.folder.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name not in kept:
            shutil.rmtree(path)
