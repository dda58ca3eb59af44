"""Docker and Compose through their command line, as far as the engine needs them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Optional
from urllib.parse import quote

from kit_engine import command, docker_socket
from kit_engine.command import Done
from kit_engine.errors import EngineError
from kit_engine.stack import Stack

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
# As compose/services/_common.yml.j2 sets it.
_RELEASE = "KIT_WEB_RELEASE="
ONE_OFF_LABEL = "com.docker.compose.oneoff"
# Until a container is killed that says nothing of its own, and what Docker may need on top of that time.
DEFAULT_STOP_SECONDS, STOP_MARGIN_SECONDS = 10, 30.0
# Where Docker's client looks for its plugins besides the user's own folder.
PLUGIN_FOLDERS = tuple(f"/usr/{place}/docker/cli-plugins" for place in ("local/lib", "local/libexec", "lib", "libexec"))


@dataclass(frozen=True)
class Container:
    """A container of the stack.

    Attributes:
        image: id of the image it runs; ``reference`` is the name it was asked for by.
        state: Docker's word: ``created running restarting exited …``.
        health: ``starting``, ``healthy``, ``unhealthy``, or empty without a health check.
        started: when it was started last, as Docker writes it.
        restarts: how often Docker restarted it.
        health_command: its health check as words to execute inside.
        ports: the host's ports that it publishes, or would if it ran.
        pid: number of its first process on the engine's machine; 0 where none runs.
        release: id of the release whose web it serves; empty for others, and where there are no releases.
        cpus: processors that it may use; 0 for all.
        stop_seconds: its stop_grace_period, until it is killed.
    """

    id: str
    name: str
    service: str
    image: str
    reference: str
    state: str
    exit_code: int
    health: str
    started: str
    restarts: int
    health_command: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    pid: int = 0
    release: str = ""
    cpus: float = 0.0
    stop_seconds: int = DEFAULT_STOP_SECONDS

    @property
    def running(self) -> bool:
        """Whether it runs at this moment and is not about to be restarted."""
        return self.state == "running"

    @property
    def created(self) -> bool:
        """Whether it is there, and was never started."""
        return self.state == "created"

    @property
    def well(self) -> bool:
        """Whether it runs and, where it has a health check, passes it."""
        return self.running and self.health in ("", "healthy")

    @property
    def in_restart_loop(self) -> bool:
        """Whether it ends again and again, even if it runs for the moment."""
        return self.state in ("restarting", "dead") or (self.restarts > 0 and self.health in ("starting", "unhealthy"))


class Docker:
    """One stack's containers.

    Args:
        stack: which.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        # What stands in for a service of somebody else, by the name that it has here.
        self.lent: dict[str, Container] = {}
        self._reading = Lock()
        self._configuration: Optional[dict[str, Any]] = None
        # The user's own COMPOSE_* (file, project, profiles) must not bend what is started here.
        self.env = {name: "" for name in os.environ if name.startswith("COMPOSE_")}
        self.env.update({"KIT_BUNDLE": str(stack.bundle), "KIT_RELEASE": stack.release, "COMPOSE_ANSI": "never"})

    def compose_command(self, *words: str) -> list[str]:
        """Build a Compose command for this stack."""
        stack = self.stack
        # By itself: the client would ask all of its plugins who they are before it starts this one.
        plugin = compose_plugin()
        return [
            *([plugin] if plugin else ["docker", "compose"]),
            "--project-name",
            stack.project,
            "--project-directory",
            str(stack.root / "shared/compose"),
            "--file",
            str(stack.bundle / stack.compose_file),
            *words,
        ]

    def patience(self, ending: Iterable[Container]) -> float:
        """Tell for how many seconds a command may run that ends containers, each in its own time.

        Args:
            ending: which; those of one service end at once, services maybe one after the other.
        """
        longest: dict[str, int] = {}
        for item in ending:
            longest[item.service] = max(longest.get(item.service, 0), item.stop_seconds)
        limit = self.stack.limits.command_timeout_seconds
        return max(limit, sum(longest.values()) + STOP_MARGIN_SECONDS) if longest else limit

    def compose(
        self, *words: str, code: str, remedy: str, stdin: str | None = None, ending: Iterable[Container] = ()
    ) -> Done:
        """Run a Compose command that must succeed.

        Args:
            words: what follows ``docker compose`` and its common flags.
            code: code of the error if it fails.
            remedy: what to type next if it fails.
            stdin: text for its standard input.
            ending: containers that it may end.

        Returns:
            Its output.

        Raises:
            EngineError: it failed, or took longer than :meth:`patience` has it.
        """
        return command.demand(
            self.compose_command(*words),
            code=code,
            remedy=remedy,
            limit=self.patience(ending),
            stdin=stdin,
            env=self.env,
        )

    def inspected(self) -> list[dict[str, Any]]:
        """Give what Docker says of the stack's containers, without those of one-off commands.

        Raises:
            EngineError: the engine does not answer.
        """
        ids, by_socket = _labelled(f"{PROJECT_LABEL}={self.stack.project}")
        if by_socket:
            each = [docker_socket.get(f"/containers/{one}/json") for one in ids]
            # One of them may be gone in between.
            return [item for item in each if item and not _is_one_off(item)]
        if not ids:
            return []
        # One of them may be gone in between: what is left is printed all the same.
        done = command.run(["docker", "inspect", "--type", "container", *ids])
        return [item for item in json.loads(done.out or "[]") if not _is_one_off(item)]

    def containers(self) -> list[Container]:
        """List the stack's containers, running or not, without those of one-off commands.

        Raises:
            EngineError: the engine does not answer.
        """
        found = [container_of(item) for item in self.inspected()]
        order = {name: number for number, name in enumerate(self.stack.services)}
        return sorted(found, key=lambda item: (order.get(item.service, len(order)), item.name))

    def of(self, service: str) -> list[Container]:
        """List the containers of one service."""
        return [container for container in self.containers() if container.service == service]

    def running(self, service: str) -> Container:
        """Give a running container of a service.

        Raises:
            EngineError: none runs.
        """
        if service in self.lent:
            return self.lent[service]
        for container in self.of(service):
            if container.running:
                return container
        raise EngineError(
            "stopped", f"Service {service} of {self.stack.project} is not running.", self.stack.make("deploy")
        )

    def execute(
        self, container: Container, argv: Sequence[str], *, stdin: str | None = None, limit: float | None = None
    ) -> Done:
        """Run a command inside a running container, without a terminal.

        Args:
            container: where.
            argv: program and arguments; never a secret.
            stdin: text for its standard input.
            limit: seconds; default is the stack's ``command_timeout_seconds``.

        Returns:
            Exit code and output.

        Raises:
            EngineError: it took too long.
        """
        interactive = [] if stdin is None else ["--interactive"]
        return command.run(
            ["docker", "exec", *interactive, container.id, *argv],
            limit=self.stack.limits.command_timeout_seconds if limit is None else limit,
            stdin=stdin,
        )

    def hang_up(self, container: Container) -> Done:
        """Send SIGHUP to a container's main process, from inside.

        By `docker kill`, whatever the signal, older engines (seen with 20.10) take the container for one that somebody
        stopped, and do not start it after a reboot.

        Args:
            container: which; it runs with Docker's init, which hands the signal on.
        """
        return self.execute(container, ("sh", "-c", "kill -HUP 1"), limit=command.QUICK_SECONDS)

    def last_log_lines(self, container: Container) -> str:
        """Give the end of a container's log, indented for a message."""
        done = command.run(["docker", "logs", "--tail", "30", container.id])
        # The streams are printed apart; an error is nearly always on the second one.
        return command.tail(f"{done.out}\n{done.err}")

    def image_uid(self, reference: str, user: str) -> int:
        """Find the number of the user that a container runs as.

        Args:
            reference: its image.
            user: what the service asks for, by name or number; empty for the image's own.

        Returns:
            The user's number inside; 0 is root.

        Raises:
            EngineError: the image is not on this host, or does not know the user.
        """
        remedy = self.stack.make("deploy")
        told = docker_socket.image(reference) if not user else None
        if told:
            user = str(told["Config"].get("User") or "") or "0"
        elif not user:
            words = ["docker", "image", "inspect", "--format", "{{.Config.User}}", reference]
            user = command.demand(words, code="image", remedy=remedy).out.strip()
        user = user.partition(":")[0] or "0"
        if user.isdigit():
            return int(user)
        # Only the image's own list of users knows a name.
        words = ["docker", "run", "--rm", "--pull", "never", "--network", "none", "--user", user]
        done = command.demand([*words, "--entrypoint", "id", reference, "-u"], code="image", remedy=remedy)
        return int(done.out)

    @property
    def configuration(self) -> dict[str, Any]:
        """The Compose file as Compose reads it, with every value filled in: secrets too, so it is never printed.

        Raises:
            EngineError: Compose cannot read the file.
        """
        # One that is asked by two threads at once reads it once; cached_property has no lock since Python 3.12.
        with self._reading:
            if self._configuration is None:
                done = self.compose("config", "--format", "json", code="compose_file", remedy=self.stack.make("render"))
                self._configuration = json.loads(done.out)
            return self._configuration

    def web_settings(self) -> tuple[str, Mapping[str, Any]]:
        """Give web's image and its environment, which may hold secrets.

        A container of this very release was started with them; to ask Compose takes as long as many a question.

        Raises:
            EngineError: Compose has to be asked, and cannot read the file.
        """
        try:
            there = self.inspected() if self.stack.release else []
        except EngineError:
            # Compose needs no engine for its file.
            there = []
        for item in there:
            found = container_of(item)
            if (found.service, found.release) == (self.stack.web, self.stack.release):
                pairs = (one.partition("=") for one in item["Config"].get("Env") or ())
                return found.reference, {name: value for name, _, value in pairs}
        service = self.configuration["services"][self.stack.web]
        return str(service["image"]), service.get("environment") or {}

    def has_volume(self, name: str) -> bool:
        """Tell whether a volume of that name is there.

        Raises:
            EngineError: the engine does not answer that.
        """
        found = docker_socket.there(f"/volumes/{quote(name, safe='')}")
        if found is None:
            done = command.run(["docker", "volume", "inspect", name])
            if done.code and "no such volume" not in done.err.lower():
                problem = f"Docker does not tell whether volume {name} is there:\n{command.tail(done.err)}"
                raise EngineError("docker", problem, "docker info    (does the engine answer?)")
            found = done.code == 0
        return found


def compose_plugin() -> str:
    """Find Compose's program; empty where it does not lie in one of the client's own places, and the client knows."""
    if docker_socket.has_setting("cliPluginsExtraDirs"):
        return ""
    for place in (str(docker_socket.config_folder() / "cli-plugins"), *PLUGIN_FOLDERS):
        program = Path(place, command.COMPOSE)
        if program.is_file() and os.access(program, os.X_OK):
            return str(program)
    return ""


def image_id(reference: str) -> str:
    """Give the id of an image on this host; empty if there is none."""
    told = docker_socket.image_id(reference)
    if told is None:
        done = command.run(["docker", "image", "inspect", "--format", "{{.Id}}", reference])
        return done.out.strip() if done.code == 0 else ""
    return told


def labelled(label: str) -> list[str]:
    """Give the ids of all containers that carry a label, running or not.

    Args:
        label: such as ``name=value``.

    Raises:
        EngineError: the engine does not answer.
    """
    return _labelled(label)[0]


def _labelled(label: str) -> tuple[list[str], bool]:
    """Their ids, and whether the engine told them over its socket."""
    told = docker_socket.get("/containers/json", all="1", filters=json.dumps({"label": [label]}))
    if told is not None:
        return [str(one["Id"]) for one in told], True
    words = ["docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}"]
    return command.demand(words, code="docker", remedy="docker info    (does the engine answer?)").out.split(), False


def _is_one_off(item: Mapping[str, Any]) -> bool:
    return bool((item["Config"].get("Labels") or {}).get(ONE_OFF_LABEL) == "True")


def container_of(item: Mapping[str, Any]) -> Container:
    """Read what Docker says of a container."""
    config, state = item["Config"], item["State"]
    labels = config.get("Labels") or {}
    ports = item["HostConfig"].get("PortBindings") or {}
    return Container(
        id=item["Id"],
        name=item["Name"].lstrip("/"),
        service=labels.get(SERVICE_LABEL, ""),
        image=item["Image"],
        reference=config["Image"],
        state="restarting" if state.get("Restarting") else state["Status"],
        exit_code=int(state.get("ExitCode", 0)),
        health=(state.get("Health") or {}).get("Status", ""),
        started=state.get("StartedAt", ""),
        restarts=int(item.get("RestartCount", 0)),
        health_command=_health_command(config),
        ports=tuple(int(bound["HostPort"] or 0) for bindings in ports.values() for bound in bindings or ()),
        pid=int(state.get("Pid", 0)),
        stop_seconds=int(config.get("StopTimeout") or DEFAULT_STOP_SECONDS),
        cpus=int(item["HostConfig"].get("NanoCpus") or 0) / 1e9,
        release=next((one.partition("=")[2] for one in config.get("Env") or () if one.startswith(_RELEASE)), ""),
    )


def _health_command(config: Mapping[str, Any]) -> tuple[str, ...]:
    test = (config.get("Healthcheck") or {}).get("Test") or []
    if test[:1] == ["CMD"]:
        return tuple(test[1:])
    if test[:1] == ["CMD-SHELL"]:
        return ("sh", "-c", test[1])
    return ()
