"""What the kit's action plugins share: an error of the kit is the task's message, and the inputs that they read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from kit_control import inputs, manifest
from kit_control.errors import KitError
from kit_control.settings import Settings

SSH_PORT = 22
# A connection is opened within half a second, or something is wrong.
PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Inputs:
    """A project in an environment.

    Attributes:
        root: the kit's folder.
        env: name of the environment.
        folder: where its rendered files go.
        version: the git ref that was asked for; empty for the working tree.
        project: the manifest.
        read_settings: reads the inputs of role release_bundle; each is a template, so they take longer than most tasks.
    """

    root: Path
    env: str
    folder: Path
    version: str
    project: manifest.Manifest
    read_settings: Callable[[], Settings]

    @cached_property
    def settings(self) -> Settings:
        """Inputs of role release_bundle.

        Raises:
            KitError: one has a mistake.
        """
        return self.read_settings()


class KitAction(ActionBase):
    """Runs :meth:`work`; a KitError becomes a failure with its message and code."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the step; see the plugin's docstring."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        # Every variable of the task, as Ansible holds them: templates are not filled in yet.
        self.variables = task_vars or {}
        try:
            result.update(self.work())
        except KitError as error:
            result.update(failed=True, msg=str(error), code=error.code)
        return result

    @property
    def host(self) -> str:
        """The host's name in the inventory."""
        return str(self.variables.get("inventory_hostname", "localhost"))

    @property
    def is_remote(self) -> bool:
        """Whether the task's host is another machine than this one."""
        return bool(self._connection.transport != "local")

    @property
    def address(self) -> str:
        """Where the task's host is reached."""
        return str(self._connection.get_option("host")) if self.is_remote else "this machine"

    @property
    def login_words(self) -> str:
        """Arguments of ssh that lead to the task's host."""
        user, port = self._connection.get_option("remote_user"), self._connection.get_option("port")
        words = ["-p", str(port)] if port and int(port) != SSH_PORT else []
        return shlex.join([*words, f"{user}@{self.address}" if user else self.address])

    @property
    def known_name(self) -> str:
        """Name under which SSH keeps the host's key."""
        port = self._connection.get_option("port")
        return shlex.quote(f"[{self.address}]:{port}") if port and int(port) != SSH_PORT else self.address

    def say(self, message: str) -> None:
        """Show a line to whoever watches; a task that only prints costs as much as one that works."""
        Display().display(f"    [{self.host}] {message}" if self.is_remote else f"    {message}")

    @contextmanager
    def beside(self, work: Callable[[], None]) -> Iterator[None]:
        """Have something done about the task's host while the block runs, where that is another machine.

        Where it fails or takes long, the next task, which needs it, says why.

        Args:
            work: is run in a thread.
        """
        working = Thread(target=work, daemon=True)
        if self.is_remote:
            working.start()
        try:
            yield
        finally:
            if self.is_remote:
                working.join(PATIENCE_SECONDS)

    def work(self) -> dict[str, Any]:
        """Do what the plugin is for.

        Returns:
            The task's result.

        Raises:
            KitError: what is wrong, where, and what to type next.
        """
        raise NotImplementedError

    def inputs(self) -> Inputs:
        """Read the project and the environment from the variables that role release_bundle reads.

        Raises:
            KitError: the manifest has a mistake.
        """
        value = self.value
        root, env = Path(value("kit_root")), str(value("kit_env"))
        project = manifest.load(Path(value("kit_manifest_path")))
        folder, version = Path(value("kit_bundle_folder")), str(value("kit_version"))
        return Inputs(root, env, folder, version, project, lambda: inputs.read(root, env, self.variables, value))

    def value(self, name: str) -> Any:
        """Fill a variable in."""
        return self._templar.template(self.variables[name])
