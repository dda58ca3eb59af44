"""stack.json: what the engine knows of the stack that it keeps on this host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Optional

from kit_engine.errors import EngineError
from kit_engine.stack_reader import Reader

FILE_NAME = "stack.json"
# The link in a deploy root that leads to the release that serves.
CURRENT = "current"
# Among the release's secrets, and for no container: `environment` of restic, `ssh_key`, `known_hosts`.
OFFSITE_SECRETS = "offsite.json"
# Likewise: `password` and `root_certificate` of a database that somebody else runs.
EXTERNAL_SECRETS = "external_database.json"
ENGINE_SECRETS = (OFFSITE_SECRETS, EXTERNAL_SECRETS)
# The service that stands before web.
EDGE = "nginx"
SCHEMA = 1
# Each is a connection, of which a server has a hundred for all.
MOST_JOBS = 32


@dataclass(frozen=True)
class Probe:
    """How readiness is asked for: base URL, Host header and path."""

    url: str
    host: str
    ready: str


@dataclass(frozen=True)
class Port:
    """A port of the host that the stack publishes; ``choose`` names the setting that moves it."""

    address: str
    port: int
    service: str
    choose: str


@dataclass(frozen=True)
class Database:
    """The stack's own PostgreSQL: its service, volume, image, database and role."""

    service: str
    volume: str
    image: str
    name: str
    user: str

    @property
    def place(self) -> str:
        """Where it is, for a message."""
        return f"service {self.service}"

    def look(self, stack: Stack) -> str:
        """Give what to type to see what its server says."""
        return stack.make("logs", f"ARGS={self.service}")


@dataclass(frozen=True)
class External(Database):
    """A PostgreSQL that somebody else runs; ``service`` is what its client is called here, ``image`` has that.

    Attributes:
        host: its address as the app's containers see it.
        port: its port.
        sslmode: of libpq.
        role: that reads for a backup; empty: the user itself.
    """

    host: str = ""
    port: int = 5432
    sslmode: str = "prefer"
    role: str = ""

    @property
    def place(self) -> str:
        """Where it is, for a message."""
        return f"server {self.host}:{self.port}"

    def look(self, stack: Stack) -> str:
        """Give what to do to see what its server says."""
        return f"look into that server's log; then {stack.make('backup')}"


@dataclass(frozen=True)
class Admin:
    """Who is created as the first superuser."""

    username: str
    email: str


@dataclass(frozen=True)
class Source:
    """A source folder that is mounted writable, who it is written as, and the paths that the project writes itself."""

    path: Path
    writable_paths: tuple[str, ...]
    uid: int
    gid: int


@dataclass(frozen=True)
class AppFiles:
    """Where static files are published to and come from, and who the app runs as.

    Attributes:
        static_source: folder inside the image; None where build_commands collect them from a mounted source.
        static_root: the volume's path in the app's containers.
        build_commands: of the project.
        uid: number of the app's user.
        media_volume: name of the volume of the media files; empty for a release of before it was written down.
    """

    static_source: Optional[str]
    static_root: str
    build_commands: tuple[tuple[str, ...], ...]
    uid: int
    media_volume: str = ""


@dataclass(frozen=True)
class Edge:
    """nginx before web; a release of before nginx reached web by sockets has the defaults.

    Attributes:
        domains: the site's host names.
        uid: number of the user that nginx runs as.
        replicas: how many containers of web serve.
        drain_timeout_seconds: how long requests in flight may take when their release is replaced.
        by_sockets: whether it reaches web by them; the first releases were made for an nginx that knows web's name.
    """

    domains: tuple[str, ...]
    uid: int
    replicas: int = 1
    drain_timeout_seconds: int = 30
    by_sockets: bool = True


@dataclass(frozen=True)
class Hook:
    """A command of the project's own, run in a container of its image, and the seconds it may take."""

    command: tuple[str, ...]
    timeout_seconds: int


@dataclass(frozen=True)
class Limits:
    """Free bytes wanted, and seconds until a started stack is ready and for one command inside a container."""

    min_free_bytes: int
    ready_timeout_seconds: int
    command_timeout_seconds: int


@dataclass(frozen=True)
class Backups:
    """How backups are made; a release that an earlier version of the kit rendered has these defaults.

    Attributes:
        level: of verification: ``checksum``, ``read`` or ``restore``.
        restore_test_max_bytes: size of the database above which ``restore`` becomes ``read``.
        jobs: processes that dump and load; 0: as many as pay (jobs.py).
        timeout_seconds: for each program that reads or writes one.
        keep_daily: of how many days the last scheduled one stays; ``keep_weekly`` and ``keep_monthly`` alike.
        keep_releases: how many of each other kind stay: before a release, before a restore, by hand.
        schedule: when one is made, as systemd's OnCalendar has it; empty: never.
        drill_schedule: when the newest is restored for a test; empty: never.
        ping_url: asked after each scheduled one, with ``/fail`` behind it after one that failed; may be empty.
        offsite_repository: where restic copies each one to; empty: nowhere.
        offsite_check_parts: each drill reads one of so many parts of what lies there.
        local_copy: whether dump and media files are kept on this host too; False wants a place off-site.
    """

    level: str = "restore"
    restore_test_max_bytes: int = 5 * 2**30
    jobs: int = 0
    timeout_seconds: int = 86_400
    keep_daily: int = 7
    keep_weekly: int = 4
    keep_monthly: int = 6
    keep_releases: int = 10
    schedule: str = ""
    drill_schedule: str = ""
    ping_url: str = ""
    offsite_repository: str = ""
    offsite_check_parts: int = 8
    local_copy: bool = True


@dataclass(frozen=True)
class Stack:
    """One environment of one project on this host.

    Attributes:
        root: the deploy root.
        bundle: folder with the Compose file, the .env file and the secrets.
        services: all services in start order: backing ones, the app's own, the edge.
        app_services: those that run the app's image; the first is web.
        manage: the words that start the project's manage.py.
        release_commands: what runs once in the new image before it serves.
        workers_stop_first: whether the app's other processes end before the release commands run.
        hooks: by the moment of a release at which they run.
        secret_variables: environment variables whose values are masked in what hooks say.
        external: the database where somebody else runs it.
    """

    root: Path
    bundle: Path
    name: str
    env: str
    project: str
    compose_file: str
    services: tuple[str, ...]
    app_services: tuple[str, ...]
    probe: Probe
    manage: tuple[str, ...]
    release_commands: tuple[tuple[str, ...], ...]
    ports: tuple[Port, ...]
    database: Database | None
    first_admin: Admin | None
    source: Source | None
    app_files: AppFiles | None
    edge: Edge | None
    limits: Limits
    workers_stop_first: bool = False
    hooks: Mapping[str, tuple[Hook, ...]] = field(default_factory=dict)
    secret_variables: tuple[str, ...] = ()
    backup: Backups = Backups()
    external: External | None = None

    @property
    def backed_up(self) -> Database | None:
        """The database that backups are made of, whoever runs it."""
        return self.database or self.external

    @property
    def release(self) -> str:
        """Id of the release; empty for local, whose bundle is the deploy root itself."""
        return "" if self.bundle == self.root else self.bundle.name

    @property
    def web(self) -> str:
        """The service that commands of the project run in."""
        return self.app_services[0]

    @property
    def has_edge(self) -> bool:
        """Whether nginx stands before web."""
        return EDGE in self.services

    @property
    def rolls(self) -> bool:
        """Whether a release takes over from another without a gap: nginx stands before web, and leads to either."""
        return bool(self.release) and self.has_edge

    @property
    def workers(self) -> tuple[str, ...]:
        """The app's processes besides web."""
        return self.app_services[1:]

    @property
    def backing_services(self) -> tuple[str, ...]:
        """What the app needs before it can run a command: everything that starts before it."""
        return self.services[: self.services.index(self.web)]

    def make(self, target: str, *settings: str) -> str:
        """Write a make command for this environment, as a user types it."""
        env = () if self.env == "local" else (f"ENV={self.env}",)
        return " ".join(("make", target, *env, *settings))


def load(root: Path, bundle: Optional[Path] = None) -> Stack:
    """Read the description of the stack under a deploy root.

    Args:
        root: the deploy root.
        bundle: folder of a release; default: the one that ``current`` leads to, or for local the deploy root itself.

    Returns:
        The stack.

    Raises:
        EngineError: it is not rendered, nothing was released yet, or the file is not one of this kit's.
    """
    root = root.resolve()
    bundle = (bundle or (root if (root / FILE_NAME).is_file() else root / CURRENT)).resolve()
    path = bundle / FILE_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError("stack", f"{root} holds no release yet ({path} is missing).", "make deploy") from None
    except (OSError, ValueError) as error:
        raise EngineError("stack", f"{path} cannot be read: {error}.", "make deploy    (writes it anew)") from None
    return read(data, root, bundle)


def read(data: Any, root: Path, bundle: Path) -> Stack:
    """Read a description.

    Args:
        data: content of a stack.json.
        root: the deploy root.
        bundle: folder of the release.

    Returns:
        The stack.

    Raises:
        EngineError: it is not one of this kit's.
    """
    path = bundle / FILE_NAME
    reader = Reader(data, "", path)
    if reader.number("schema") != SCHEMA:
        raise EngineError(
            "stack",
            f"{path} has schema {data['schema']}, this engine knows {SCHEMA}: two versions of the kit.",
            f"make deploy ENV={root.name}    (renders it anew and brings the engine along)",
        )
    return _stack(reader, data, root, bundle)


def _stack(reader: Reader, data: Mapping[str, Any], root: Path, bundle: Path) -> Stack:
    probe, limits = reader.part("probe"), reader.part("limits")
    database, admin, source = reader.maybe("database"), reader.maybe("first_admin"), reader.maybe("source")
    files, edge = reader.maybe("app_files"), reader.maybe("edge")
    services, app_services = reader.texts("services"), reader.texts("app_services")
    if not app_services or not set(app_services) <= set(services):
        raise reader.wrong("app_services", "at least one of services")
    return Stack(
        root=root,
        bundle=bundle,
        name=reader.text("name"),
        env=reader.text("env"),
        project=reader.text("project"),
        compose_file=reader.text("compose_file"),
        services=services,
        app_services=app_services,
        probe=Probe(url=probe.text("url"), host=probe.text("host"), ready=probe.text("ready")),
        manage=reader.texts("manage"),
        release_commands=reader.commands("release_commands"),
        ports=tuple(
            Port(part.text("address"), part.number("port"), part.text("service"), part.text("choose"))
            for part in reader.parts("ports")
        ),
        database=None
        if database is None
        else Database(
            service=database.text("service"),
            volume=database.text("volume"),
            image=database.text("image"),
            name=database.text("name"),
            user=database.text("user"),
        ),
        first_admin=None if admin is None else Admin(admin.text("username"), admin.text("email")),
        source=None
        if source is None
        else Source(
            path=Path(source.text("path")),
            writable_paths=tuple(part.text("path") for part in source.parts("writable_paths")),
            uid=source.number("uid"),
            gid=source.number("gid"),
        ),
        app_files=None
        if files is None
        else AppFiles(
            static_source=files.text("static_source") if files.given("static_source") else None,
            static_root=files.text("static_root"),
            build_commands=files.commands("build_commands"),
            uid=files.number("uid"),
            media_volume=files.text("media_volume") if files.given("media_volume") else "",
        ),
        edge=None
        if edge is None
        else Edge(
            domains=edge.texts("domains"),
            uid=edge.number("uid"),
            **{name: edge.number(name) for name in ("replicas", "drain_timeout_seconds") if edge.given(name)},
            by_sockets=edge.given("replicas"),
        ),
        workers_stop_first=bool(data.get("workers_stop_first")),
        hooks=_hooks(reader.maybe("hooks")),
        secret_variables=reader.texts("secret_variables") if reader.given("secret_variables") else (),
        backup=_backups(reader.maybe("backup")),
        external=_external(reader.maybe("external")),
        limits=Limits(
            min_free_bytes=limits.number("min_free_bytes"),
            ready_timeout_seconds=limits.number("ready_timeout_seconds"),
            command_timeout_seconds=limits.number("command_timeout_seconds"),
        ),
    )


def _backups(reader: Reader | None) -> Backups:
    if reader is None:
        return Backups()
    names = {kind: [one.name for one in fields(Backups) if one.type == kind] for kind in ("int", "str")}
    # What is not given has its default.
    told: dict[str, Any] = {name: reader.number(name) for name in names["int"] if reader.given(name)}
    told.update({name: reader.text(name) for name in names["str"] if reader.data.get(name)})
    if told.get("jobs", 0) > MOST_JOBS:
        raise reader.wrong("jobs", f"a whole number up to {MOST_JOBS}")
    told["local_copy"] = reader.data.get("local_copy", True)
    if told["local_copy"] is not True and not (told["local_copy"] is False and told.get("offsite_repository")):
        raise reader.wrong("local_copy", "true, or false where offsite_repository says where backups go")
    return Backups(**told)


def _external(reader: Reader | None) -> External | None:
    if reader is None:
        return None
    return External(
        # No service of a Compose file may have such a name.
        service="external database",
        volume="",
        image=reader.text("image"),
        name=reader.text("name"),
        user=reader.text("user"),
        host=reader.text("host"),
        port=reader.number("port"),
        sslmode=reader.text("sslmode"),
    )


def _hooks(reader: Reader | None) -> dict[str, tuple[Hook, ...]]:
    """Those of a release that an earlier version of the kit rendered are none."""
    if reader is None:
        return {}
    return {
        moment: tuple(Hook(one.texts("command"), one.number("timeout_seconds")) for one in reader.parts(moment))
        for moment in reader.data
    }
