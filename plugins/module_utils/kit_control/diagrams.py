"""Diagrams of docs/ARCHITECTURE.md, drawn from the rendered Compose files so that they cannot drift from them.

``python -m kit_control.diagrams DOCUMENT BUNDLES`` rewrites the blocks between ``<!-- diagram: <kind> <env> -->`` and
``<!-- /diagram -->``; BUNDLES is a folder with one bundle per environment.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

Compose = Mapping[str, Any]
_BLOCK = re.compile(r"(<!-- diagram: (?P<kind>\w+) (?P<env>\w+) -->\n).*?(<!-- /diagram -->)", re.DOTALL)
_DATA_SERVICES = ("db", "redis")


def services(compose: Compose) -> list[str]:
    """Draw services, the networks that join them and the ports they publish."""
    lines = ["flowchart LR"]
    networks: Mapping[str, Mapping[str, Any]] = compose.get("networks", {"default": {}})
    for key, network in networks.items():
        note = ", no route out" if network.get("internal") else ""
        lines.append(f'  net_{key}(["network {key}{note}"])')
    for name, service in compose["services"].items():
        lines.append(f'  {_id(name)}["{name}"]')
        lines += [f"  {_id(name)} --- net_{key}" for key in service.get("networks", ["default"])]
        lines += [
            f'  host_{_id(name)}_{i}(("{_published(p)}")) --> {_id(name)}'
            for i, p in enumerate(service.get("ports", []))
        ]
    return lines


def requests(compose: Compose) -> list[str]:
    """Draw the way of a request from the browser to the data."""
    found = compose["services"]
    lines = ["flowchart LR", '  browser(("browser"))']
    front = "nginx" if "nginx" in found else "web"
    ports = [_published(port) for port in found[front]["ports"]]
    lines.append(f'  browser -- "{", ".join(ports)}" --> {front}["{front}"]')
    if front == "nginx":
        lines.append('  nginx -- "static and media files" --> files[("volumes")]')
        lines.append('  nginx -- "everything else" --> web["web"]')
    for name in found["web"].get("depends_on", {}):
        lines.append(f'  web --> {name}[("{name}")]')
    for name, service in found.items():
        if name not in (*_DATA_SERVICES, "nginx", "web"):
            lines += [f'  {_id(name)}["{name}"] --> {other}' for other in service.get("depends_on", {})]
    return lines


def volumes(compose: Compose) -> list[str]:
    """Draw which service mounts what, and where."""
    lines = ["flowchart LR"]
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source, target, *mode = str(volume).split(":")
            shape = f'[/"{source}"/]' if source.startswith((".", "<", "/")) else f'[("{source}")]'
            label = target + (", read-only" if mode == ["ro"] else "")
            lines.append(f'  v_{_id(source)}{shape} -- "{label}" --> {_id(name)}["{name}"]')
    return lines


def configuration(compose: Compose) -> list[str]:
    """Draw how manifest and inventory become the environment of each service."""
    env = str(compose["name"]).rsplit("-", 1)[1]
    lines = [
        "flowchart LR",
        '  manifest["app/deploy.yml"] --> render{{"make render"}}',
        f'  inventory["inventories/{env}/"] --> render',
        f'  render --> compose["docker-compose.{env}.yml"]',
        f'  render --> envfile[".env.{env}"]',
    ]
    if "nginx" in compose["services"]:
        lines += ['  render --> nginxconf["nginx/"]', '  nginxconf --> nginx["nginx"]']
    if compose.get("secrets"):
        lines.append('  render --> secrets["secrets/"]')
    for name, service in compose["services"].items():
        if "env_file" in service:
            lines.append(f'  envfile -- "environment" --> {_id(name)}["{name}"]')
        if service.get("secrets"):
            lines.append(f'  secrets -- "/run/secrets" --> {_id(name)}["{name}"]')
    return lines


KINDS: Mapping[str, Callable[[Compose], list[str]]] = {
    "services": services,
    "requests": requests,
    "volumes": volumes,
    "configuration": configuration,
}


def redrawn(text: str, bundles: Path) -> str:
    """Return a document with every diagram drawn anew.

    Args:
        text: the document.
        bundles: folder with ``<env>/docker-compose.<env>.yml``.

    Raises:
        KeyError: a block names a kind that does not exist.
    """

    def draw(match: re.Match[str]) -> str:
        env = match["env"]
        compose = yaml.safe_load((bundles / env / f"docker-compose.{env}.yml").read_text(encoding="utf-8"))
        body = "\n".join(["```mermaid", *KINDS[match["kind"]](compose), "```", ""])
        return f"{match[1]}{body}{match[4]}"

    return _BLOCK.sub(draw, text)


def _id(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")


def _published(port: str) -> str:
    return str(port).rsplit(":", 1)[0]


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(redrawn(document.read_text(encoding="utf-8"), Path(sys.argv[2])), encoding="utf-8")
