"""The words that may stand as `code` in build/<env>/result.json, and what each means; the docs print this table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# Raised nowhere by name: the end of a playbook, and what Ansible itself reports.
OF_PLAYBOOKS = {
    "ok": "all went well; `changed` tells whether anything had to",
    "check": "several things of one host must be mended first; the message lists them",
    "task": "a task of Ansible's own failed; the message is its",
    "usage": "the command was typed wrongly",
}
MEANINGS = {
    **OF_PLAYBOOKS,
    "app_image": "the app's image cannot be built",
    "backup": "no backup can be made, or one is not good",
    "base_images": "a base image cannot be had, or is another one than the record or the data wants",
    "bundle": "a release did not arrive whole",
    "certificate": "the certificate is refused; the message says why",
    "certificate_served": "nginx goes on serving another certificate",
    "certificate_time": "the certificate is not valid yet, or has expired",
    "changed_meanwhile": "another release serves than when this one began to be prepared",
    "clock": "the host's clock is wrong",
    "compose": "Docker Compose is missing on the host, or too old",
    "compose_file": "Compose cannot read the rendered file",
    "compose_too_old": "the Compose that can be installed is too old",
    "compose_v1": "only docker-compose of version 1 is there",
    "database": "the database does not answer",
    "database_login": "the database refuses the app's password",
    "database_major": "the data were written by another major version of PostgreSQL",
    "database_password": "the database role's password cannot be changed",
    "deploy_root": "the deploy root belongs to another project or environment",
    "dirty": "the working tree has changes that no commit holds",
    "disk": "too little space is free",
    "docker": "Docker's command failed",
    "down": "the stack cannot be taken down",
    "engine": "the Docker engine is missing, stopped or not reachable",
    "engine_configuration": "the Docker engine's configuration cannot be used or merged",
    "engine_key": "the key of Docker's packages is not the known one",
    "engine_packages": "no packages of the Docker engine can be had",
    "engine_permission": "the user may not use Docker's socket",
    "engine_root": "installing the Docker engine needs root",
    "engine_system": "the Docker engine cannot be installed on this system",
    "engine_too_old": "the Docker engine that is there, or can be installed, is too old",
    "engine_unreachable": "the Docker engine is elsewhere, and does not answer",
    "engine_version": "the Docker engine is too old",
    "env": "a value cannot stand in a .env file",
    "files": "a file or folder cannot be read or written",
    "first_admin": "the first admin cannot be created",
    "hook": "a hook of the project's, which runs before the release changes anything, failed",
    "host": "a command for one host met several, or an unknown name",
    "host_key": "a host's key is not known, or another than the known one",
    "image": "an image is not on the host",
    "images": "an image was not named",
    "interrupted": "Ctrl-C",
    "inventory": "the inventory has a mistake, or names no host",
    "lock_lost": "the connection that held the host's lock for this deploy was lost",
    "locked": "another call changes the same thing on the host, and does not end",
    "login": "a login was tried and failed; what would have locked you out was undone",
    "manifest": "the project's manifest has a mistake",
    "migrate": "a release command (migrations) failed",
    "migrations": "an image does not tell its migrations",
    "missing": "a program is not installed",
    "nginx": "nginx refuses its configuration, or did not take it; the earlier one is in use",
    "not_prepared": "no release is under way any more: it was recovered meanwhile",
    "not_ready": "the new release did not become ready in time",
    "offsite": "a backup could not be copied off-site, or not fetched from there",
    "port": "a port that the stack publishes is taken",
    "python": "the host's Python is missing or too old",
    "registry": "the registry cannot be used",
    "reload": "the app could not be made to read its source anew",
    "render": "a template cannot be rendered",
    "restart": "services cannot be restarted",
    "restart_needed": "the release stops a service that nobody allowed to be stopped (ALLOW_RESTART)",
    "rollback": "there is no such release to go back to, or not the same one on all hosts",
    "secrets": "a secret is wrong, unknown, or wanted by two users",
    "smoke": "a smoke check failed",
    "source": "the mounted source cannot be used",
    "ssh": "SSH is set up in a way that cannot be used, or a step of it took too long",
    "schedule": "the timers of the backups, or what a boot starts, cannot be installed",
    "stack": "the host holds no release, or one of another version of the kit",
    "start": "containers cannot be created or started",
    "static": "the static files cannot be published",
    "stopped": "what the command needs is not running",
    "sudo": "the login user may not become root",
    "timeout": "a step took longer than its limit",
    "trial": "the account that smoke checks sign in with cannot be made",
    "unhealthy": "a service did not become healthy",
    "unreachable": "the host cannot be reached",
    "vault": "the vault cannot be opened",
    "version": "there is no such version of the project",
}
_RAISED = ("KitError", "EngineError")


def table() -> str:
    """Write the table as Markdown."""
    rows = [f"| `{code}` | {meaning} |" for code, meaning in sorted(MEANINGS.items())]
    return "\n".join(["| code | meaning |", "|---|---|", *rows]) + "\n"


def used(folder: Path) -> set[str]:
    """Find every code that the sources below a folder can raise.

    Args:
        folder: such as ``plugins/``.

    Returns:
        The texts that stand as an error's code, or as an argument named ``code``.
    """
    found = set()
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found |= set(_codes(node))
    return found


def _codes(call: ast.Call) -> Iterator[str]:
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    given = [word.value for word in call.keywords if word.arg == "code"]
    if name in _RAISED:
        given += call.args[:1]
    for value in given:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


if __name__ == "__main__":
    print(table(), end="")
