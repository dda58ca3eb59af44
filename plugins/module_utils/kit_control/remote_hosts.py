"""The hosts of an environment as Ansible knows them, and the SSH command that reaches one, without running a play."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.cli import CLI
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import connection_loader, init_plugin_loader
from ansible.template import Templar
from ansible.vars.manager import VariableManager

from kit_control import locked_vault, unreachable_host
from kit_control.errors import KitError

GROUP = "app"
# Short enough for a socket's path, and one for each way to a host.
_SOCKET = "kit-%C"


@dataclass(frozen=True)
class RemoteHost:
    """One host and the way to it.

    Attributes:
        name: in the inventory.
        address: where SSH reaches it.
        root: the deploy root there.
        ssh: the words of the SSH command, up to the options.
    """

    name: str
    address: str
    root: str
    ssh: tuple[str, ...]

    def command(self, words: Sequence[str], *, terminal: bool) -> list[str]:
        """Build the command that runs something there.

        Args:
            words: program and arguments on the host; never a secret.
            terminal: whether it gets one.
        """
        return [*self.ssh, "-t" if terminal else "-T", self.address, shlex.join(words)]

    def explain(self, said: str) -> KitError:
        """Turn what SSH said when it could not reach the host into cause and next command."""
        return unreachable_host.explain(self.name, self.address, said)


def load(root: Path, env: str, inventory: str = "", variables: Mapping[str, Any] | None = None) -> list[RemoteHost]:
    """Read an environment's hosts.

    Args:
        root: the kit's folder.
        env: name of the environment.
        inventory: a second inventory, as of ``INVENTORY=``; empty for none.
        variables: extra variables, which win over all others.

    Returns:
        The hosts of group ``app``, in the inventory's order.

    Raises:
        KitError: an inventory or a variable in it cannot be read, or no host is named.
    """
    sources = [str(root / "inventories" / env), *([inventory] if inventory else [])]
    if inventory and not Path(inventory).exists():
        raise KitError("inventory", f"There is no inventory {inventory}.", "ls    (INVENTORY=path/to/hosts.yml)")
    try:
        hosts = _read(root, sources, variables or {})
    except AnsibleError as error:
        raise locked_vault.explain(error, sources, env) or KitError(
            "inventory",
            f"The inventory of {env} cannot be read: {error}",
            f"ansible-inventory {' '.join(f'-i {shlex.quote(source)}' for source in sources)} --list",
        ) from error
    if not hosts:
        raise KitError(
            "inventory",
            f"inventories/{env} names no host{f', and {inventory} neither' if inventory else ''}.",
            f"name them in inventories/{env}/hosts.yml, or: make <target> ENV={env} INVENTORY=path/to/hosts.yml",
        )
    return hosts


def choose(hosts: Sequence[RemoteHost], name: str, target: str) -> RemoteHost:
    """Pick the one host that a command is for.

    Args:
        hosts: all that there are.
        name: the one that was asked for, as of ``HOST=``; empty for the only one.
        target: the command, for the advice.

    Raises:
        KitError: there is no such host, or there are several and none was named.
    """
    names = ", ".join(host.name for host in hosts)
    advice = f"make {target} HOST={hosts[0].name}    (one of: {names})"
    if name:
        for host in hosts:
            if host.name == name:
                return host
        raise KitError("host", f"There is no host {name!r} in this inventory; there are: {names}.", advice)
    if len(hosts) > 1:
        raise KitError("host", f"This inventory has {len(hosts)} hosts: {names}. This command is for one.", advice)
    return hosts[0]


@cache
def _vault(password_file: str) -> Any:
    """Find the plugins and open the vault, once in a process, as Ansible's own commands do."""
    init_plugin_loader()
    files = [password_file] if password_file else []
    return CLI.setup_vault_secrets(DataLoader(), constants.DEFAULT_VAULT_IDENTITY_LIST, files, auto_prompt=False)


def _read(root: Path, sources: list[str], extra: Mapping[str, Any]) -> list[RemoteHost]:
    loader = DataLoader()
    loader.set_vault_secrets(_vault(os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE", "")))
    # As for a playbook: the wiring in playbooks/group_vars knows the deploy root.
    loader.set_basedir(str(root / "playbooks"))
    inventory = InventoryManager(loader=loader, sources=sources)
    manager = VariableManager(loader=loader, inventory=inventory)
    found = []
    for host in inventory.get_hosts(GROUP):
        values = {**manager.get_vars(host=host), **extra}
        templar = Templar(loader=loader, variables=values)
        connection = {
            name: templar.template(value)
            for name, value in values.items()
            if name.startswith(("ansible_", "inventory_"))
        }
        connection.setdefault("ansible_host", host.name)
        found.append(
            RemoteHost(
                name=host.name,
                address=str(connection["ansible_host"]),
                root=str(templar.template(values["kit_deploy_root"])),
                ssh=tuple(_ssh(connection)),
            )
        )
    return found


def _ssh(connection: Mapping[str, Any]) -> list[str]:
    """The options that Ansible's own SSH connection would use, as its plugin reads them."""
    connection_loader.get("ssh", class_only=True)
    option = constants.config.get_plugin_options("connection", "ssh", variables=connection)
    words = [str(option["ssh_executable"]), *shlex.split(option["ssh_args"] or "")]
    if option["host_key_checking"] is False:
        words += ["-o", "StrictHostKeyChecking=no"]
    if option["port"]:
        words += ["-o", f"Port={option['port']}"]
    if option["private_key_file"]:
        words += ["-o", f"IdentityFile={Path(option['private_key_file']).expanduser()}"]
    if option["remote_user"]:
        words += ["-o", f"User={option['remote_user']}"]
    words += ["-o", f"ConnectTimeout={option['timeout']}", "-o", "BatchMode=yes"]
    words += shlex.split(option["ssh_common_args"] or "") + shlex.split(option["ssh_extra_args"] or "")
    if not any("ControlPath" in word for word in words):
        folder = Path(option["control_path_dir"]).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        words += ["-o", f"ControlPath={folder / _SOCKET}"]
    return words
