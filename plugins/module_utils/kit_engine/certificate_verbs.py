"""The verbs about certificates: show what there is, bring one into use; by hand on the host, or from a control node."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Optional

from kit_engine import certificate, signals, stack
from kit_engine.certificate import Place
from kit_engine.certificate_checks import Pair, Wanted, date, days_left, missing_names
from kit_engine.docker import Docker
from kit_engine.errors import EngineError, UsageError
from kit_engine.report import Report


def certificate_verb(docker: Docker, arguments: argparse.Namespace) -> None:
    """Show the site's certificates; with --chain and --key bring that one into use first."""
    edge = docker.stack.edge
    if edge is None:
        raise UsageError(
            f"{docker.stack.project} has no nginx, so it serves no certificate.",
            f"./docker-manage.sh {docker.stack.env} status",
        )
    place = Place(docker.stack.root, docker.stack.name, edge.uid)
    changed = False
    if arguments.chain or arguments.key:
        if not (arguments.chain and arguments.key):
            raise UsageError("--chain and --key belong together.", "./docker-manage.sh help")
        pair = Pair(_text(arguments.chain), _text(arguments.key), str(arguments.chain), str(arguments.key))
        authority = _text(arguments.ca) if arguments.ca else ""
        wanted = Wanted(edge.domains, authority=authority, authority_place=str(arguments.ca))
        with signals.deferred():
            changed = certificate.install(place, pair, wanted, docker)
    now = certificate.facts(place, docker.stack.probe)
    rows = certificate.installed(place)
    lines = [f"{docker.stack.name} ({docker.stack.env}): {_verdict(now)}"]
    for row in rows:
        mark = "in use" if row["current"] else "before"
        kind = ", self-signed" if row["self_signed"] else ""
        lines.append(
            f"  {mark:<7} {row['serial']}  {row['days_left']} days left (until {date(row['not_after'])}){kind}  "
            f"{', '.join(row['names'])}"
        )
    report: Report = arguments.report
    report.done({"changed": changed, "certificate": now, "installed": rows}, "\n".join(lines))


def install_verb(arguments: argparse.Namespace) -> None:
    """Bring a certificate into use that a control node has judged, or only tell what is there.

    The request: ``name``, ``uid``, ``domains``, and ``only_ask`` where nothing may be changed. Standard input: JSON
    with ``chain`` and ``key``, or nothing to have what lies there already served.
    """
    asked, root = json.loads(arguments.request), arguments.root.resolve()
    place = Place(root, str(asked["name"]), int(asked["uid"]))
    docker = _there(root)
    given = sys.stdin.read().strip()
    warnings: list[str] = []
    changed = False
    if given:
        content = json.loads(given)
        pair = Pair(content["chain"], content["key"], "the certificate that was sent", "the key that was sent")
        domains = tuple(asked["domains"])
        # Between link and reload, visitors and files would differ.
        with signals.deferred():
            changed = certificate.install(place, pair, Wanted(domains, trust="given"), docker)
        warnings = _left_behind(place, docker)
    elif place.chain() and not asked.get("only_ask"):
        with certificate.turn(place):
            changed = certificate.bring_to_visitors(docker, place.chain()[0])
    now = certificate.facts(place, docker.stack.probe if docker else None)
    result: dict[str, Any] = {"changed": changed, "certificate": now}
    if warnings:
        result["warnings"] = warnings
    arguments.report.done(result, _verdict(now))


def _there(root: Path) -> Optional[Docker]:
    """The containers of the release that serves; None before the first one."""
    if not any((folder / stack.FILE_NAME).is_file() for folder in (root, root / stack.CURRENT)):
        return None
    return Docker(stack.load(root))


def _left_behind(place: Place, docker: Optional[Docker]) -> list[str]:
    """Say so where the release that still serves answers to names that the new certificate lacks."""
    edge = docker.stack.edge if docker else None
    if edge is None:
        return []
    missing = missing_names(place.chain()[0].names, edge.domains)
    if not missing:
        return []
    return [f"Until the new release serves, visitors of {', '.join(missing)} get a certificate for other names."]


def _verdict(now: dict[str, Any]) -> str:
    if not now:
        return "no certificate is installed"
    left = f"{days_left(now['not_after'])} days left"
    if now["served"] is None:
        return f"certificate {now['serial']} is installed, {left}; nginx does not answer"
    if now["served"]:
        return f"certificate {now['serial']} is served, {left}"
    return f"certificate {now['serial']} is installed, but nginx serves {now['served_serial']}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise EngineError(
            "certificate",
            f"{path} is no PEM text.",
            f"openssl x509 -inform der -in {path} -out {path}.pem    (turns it into one)",
        ) from None
