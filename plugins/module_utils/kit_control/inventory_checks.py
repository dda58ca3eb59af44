"""What an inventory says, judged before any host is touched; every mistake is found in one run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from kit_engine import database_name
from kit_engine.stack import MOST_JOBS

from kit_control.context import Stack
from kit_control.manifest import Manifest, schema
from kit_control.settings import MISSING, Settings
from kit_control.variables import needed_secrets

# What people leave in a file they copied.
_PLACEHOLDER = re.compile(r"(?i)^(<.*>|change[-_ ]?me.*|replace[-_ ]?me.*|x{3,}|todo|secret|password|your[-_ ].*)$")
# distribution/reference: name[:port]/path[:tag][@digest], as in the OCI distribution specification.
_IMAGE = re.compile(
    r"^([a-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$"
)
# The major version in the tag of an image of PostgreSQL or PostGIS.
_POSTGRES = re.compile(r"(?:^|/)[^/:@]*postg[^/:@]*:(\d{1,2})(?!\d)")
# From this one on the official images keep their data elsewhere than where the kit mounts the volume: in an anonymous
# one, which goes with the container.
_POSTGRES_MOVED = 18
# How images come to hosts.
DELIVERIES = ("build", "transfer", "registry")
_REGISTRY = re.compile(r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._/-]+[a-z0-9]+)*)?/?$")
# As Django's own check W009 asks of SECRET_KEY.
_FEWEST_DIFFERENT = 5
# Facts that an input of the role decides: a value beside it would let the two differ.
_INPUT_OF = {
    "environment": "release_bundle_django_env",
    "debug": "release_bundle_debug",
    "allowed_hosts": "app_domains",
    "csrf_trusted_origins": "app_domains",
}
_DOMAIN = re.compile(schema()["$defs"]["domain"]["pattern"])
# restic's backends, and a folder of this host's, as of a disk that is mounted there.
_PLACE = re.compile(r"^(sftp|s3|rest|b2|azure|gs|swift|rclone):\S+$|^/\S+$")
_LOGIN_IN_URL = re.compile(r"//[^/@\s]+:[^/@\s]+@")
# What Python's client can ask: no login, and no character that it would refuse each night.
_PING_URL = re.compile(r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?][!-~]*)?$")
_SHORTEST_PASSWORD = 12
_CHECKS_BY_TYPE = {
    "integer": (re.compile(r"^[+-]?[0-9]+$"), "a whole number"),
    "boolean": (re.compile(r"^(true|false)$"), "true or false"),
    "url": (
        re.compile(r"^[a-z][a-z0-9+.-]*://\S+$"),
        "an address with a scheme, such as https://example.com",
    ),
    "email": (re.compile(r"^([^<>]*<)?[^@\s<>]+@[^@\s<>]+>?$"), "a mail address"),
}


def problems(manifest: Manifest, settings: Settings, stack: Stack, env: str, images: Mapping[str, str]) -> list[str]:
    """List what must be mended before a deploy.

    Args:
        manifest: the project.
        settings: inputs of role release_bundle.
        stack: what they came to.
        env: name of the environment, for the advice.
        images: reference of each image.

    Returns:
        One line for each mistake, with the place to mend it; empty when all is well.
    """
    where = f"inventories/{env}/group_vars/all"
    return [
        *_missing(manifest, settings, stack, env, where),
        *_unknown_names(manifest, settings, where),
        *_values(manifest, settings, where),
        *_ports(stack, where),
        *_images(images, where),
        *_database_image(images, settings, where),
        *_domains(settings, where),
        *_modes(settings, where),
        *_database_name(settings, where),
        *_jobs(settings, where),
        *_ping(settings, where),
        *_offsite(settings, where),
    ]


def _jobs(settings: Settings, where: str) -> Iterator[str]:
    if not 0 <= int(settings["backup_jobs"]) <= MOST_JOBS:
        yield (
            f"{where}: backup_jobs is {settings['backup_jobs']}; allowed: 0 to {MOST_JOBS}; by 0 the kit decides, "
            "by the database's size and the host's processors"
        )


def _ping(settings: Settings, where: str) -> Iterator[str]:
    url = str(settings["backup_ping_url"])
    if url and not _PING_URL.fullmatch(url):
        yield (
            f"{where}: backup_ping_url {url!r} is no address that can be asked; write http:// or https://, a host and "
            "a path of plain characters without spaces or a login, such as https://ping.example.com/0a1b2c"
        )


def _offsite(settings: Settings, where: str) -> Iterator[str]:
    """A copy that cannot be made, or never be read again, is worse than none: nobody misses it in time."""
    place, given = str(settings["backup_offsite_repository"]), settings["backup_offsite_environment"]
    if not place:
        if not settings["backup_local_copy"]:
            yield (
                f"{where}: backup_local_copy is false, and no backup_offsite_repository says where backups go instead; "
                "set that, or backup_local_copy: true"
            )
        if given or settings["backup_offsite_ssh_key"]:
            yield f"{where}: the vault has vault_backup_offsite, and no backup_offsite_repository says where copies go"
        return
    if not _PLACE.match(place):
        yield (
            f"{where}: backup_offsite_repository {place!r} is no place of restic's, such as sftp:user@host:/folder or "
            "s3:https://host/bucket"
        )
    if _LOGIN_IN_URL.search(place):
        yield f"{where}: backup_offsite_repository holds a password; it belongs into the vault's vault_backup_offsite"
    if len(str(given.get("RESTIC_PASSWORD", ""))) < _SHORTEST_PASSWORD:
        yield (
            f"{where}: backup_offsite_repository is set, and the vault's vault_backup_offsite has no RESTIC_PASSWORD "
            f"of {_SHORTEST_PASSWORD} characters or more; without it no copy can be read, so keep it elsewhere too"
        )
    if int(settings["backup_offsite_check_parts"]) < 1:
        yield f"{where}: backup_offsite_check_parts is at least 1"


def host_problems(hosts: Mapping[str, tuple[str, str, str]], env: str) -> list[str]:
    """Say what is wrong with the hosts that an inventory names.

    Args:
        hosts: address, port and deploy root of each host of group ``app``, by its name in the inventory.
        env: name of the environment.
    """
    if not hosts:
        return [
            f"inventories/{env}/hosts.yml names no host; write under `app:`\n"
            "      hosts:\n        web1: {ansible_host: 192.0.2.10, ansible_user: deploy}\n"
            f"    or name an inventory of yours: make deploy ENV={env} INVENTORY=path/to/hosts.yml"
        ]
    seen: dict[tuple[str, str, str], str] = {}
    problems = []
    for name, place in hosts.items():
        if place in seen:
            address, port, root = place
            problems.append(
                f"{seen[place]} and {name} are one host: {address} port {port}, {root}; take one of them out"
            )
        seen.setdefault(place, name)
    return problems


def delivery_problems(inputs: Mapping[str, str], env: str) -> list[str]:
    """Say what is wrong with how images shall come to hosts.

    Args:
        inputs: app_image_delivery, app_image_registry, app_image_registry_user and app_image_registry_password, each
            empty where it was not given.
        env: name of the environment.
    """
    where = f"inventories/{env}/group_vars/all"
    delivery, registry = inputs["app_image_delivery"], inputs["app_image_registry"]
    if delivery not in ("", *DELIVERIES):
        return [f"{where}: app_image_delivery is {delivery}; write one of: {', '.join(DELIVERIES)}"]
    if delivery != "registry":
        return []
    problems = []
    if not _REGISTRY.match(registry):
        problems.append(
            f"{where}: app_image_delivery is registry, and app_image_registry {registry or 'is empty'}; write its host "
            "and path without a scheme, such as registry.example.com/team"
        )
    if bool(inputs["app_image_registry_user"]) != bool(inputs["app_image_registry_password"]):
        problems.append(
            f"{where}: app_image_registry_user and app_image_registry_password belong together; write both, the "
            "password into the vault, or neither"
        )
    return problems


def _missing(manifest: Manifest, settings: Settings, stack: Stack, env: str, where: str) -> Iterator[str]:
    variables = manifest.data["variables"]
    for name in stack.missing:
        if name == "app_domains":
            yield f"{where}: no host name of the site; write app_domains: [www.example.com]"
        elif name in needed_secrets(manifest.data, settings):
            yield f"secret {name} has no value; type: make secrets ENV={env}"
        elif name not in variables:
            yield f"secret {name} of the external service has no value; write it under vault_secrets"
        elif variables[name]["secret"]:
            meaning = variables[name]["meaning"]
            yield f"secret {name} ({meaning}) has no value; write it under vault_secrets (docs/QUICKSTART.md)"
        else:
            yield f"{where}: {name} ({variables[name]['meaning']}) has no value; write app_variables: {{{name}: …}}"


def _unknown_names(manifest: Manifest, settings: Settings, where: str) -> Iterator[str]:
    variables = manifest.data["variables"]
    for name in settings["variables"]:
        if name not in variables:
            yield f"{where}: app_variables names {name}, which the manifest does not know; known: {_listed(variables)}"
        elif variables[name]["secret"]:
            yield f"{where}: {name} is a secret and must not stand in app_variables; put it into vault_secrets"
        elif variables[name].get("from") in _INPUT_OF:
            yield f"{where}: app_variables must not name {name}; set {_INPUT_OF[variables[name]['from']]} instead"
    known = {*variables, "DATABASE_PASSWORD", "REDIS_PASSWORD"}
    for name in settings["secret_values"]:
        if name not in known:
            yield f"{where}: vault_secrets names {name}, which the manifest does not know"
    if settings["processes"] != "all":
        processes = manifest.data["processes"]
        for name in settings["processes"]:
            if name not in processes:
                yield f"{where}: release_bundle_processes names {name}; the manifest has: {_listed(processes)}"


def _values(manifest: Manifest, settings: Settings, where: str) -> Iterator[str]:
    """Judge given values; a secret's value is never repeated in the message."""
    given = {**settings["variables"], **settings["secret_values"]}
    for name, variable in manifest.data["variables"].items():
        if name not in given:
            continue
        value = given[name]
        text = str(value).lower() if isinstance(value, bool) else str(value)
        secret = variable["secret"]
        shown = "its value" if secret else repr(text)
        if MISSING in text or (secret and _PLACEHOLDER.match(text)):
            yield f"{where}: {name} still holds a placeholder; give it a real value"
        if len(text) < variable.get("min_length", 0):
            yield f"{where}: {name} has {len(text)} characters, at least {variable['min_length']} are needed"
        elif secret and "min_length" in variable and len(set(text)) < _FEWEST_DIFFERENT:
            yield f"{where}: {name} has {len(set(text))} different characters, at least {_FEWEST_DIFFERENT} are needed"
        for prefix in variable["forbidden_prefixes"]:
            if text.startswith(prefix):
                yield f"{where}: {name} starts with {prefix!r}, which marks a value that is not for real use"
        if variable["type"] in _CHECKS_BY_TYPE and not isinstance(value, list | dict) and text:
            pattern, wanted = _CHECKS_BY_TYPE[variable["type"]]
            if not pattern.match(text):
                yield f"{where}: {name}: {shown} is not {wanted}"
        if "\0" in text:
            yield f"{where}: {name} holds a NUL character, which no environment variable can"


def _ports(stack: Stack, where: str) -> Iterator[str]:
    seen: dict[int, str] = {}
    for port in stack.description["ports"]:
        number, name = port["port"], f"the port of {port['service']} ({port['choose']})"
        if not 1 <= number <= 65535:
            yield f"{where}: {name} is {number}; allowed: 1 to 65535"
        elif number in seen:
            yield f"{where}: port {number} is used twice: {seen[number]} and {name}"
        seen.setdefault(number, name)


def _images(images: Mapping[str, str], where: str) -> Iterator[str]:
    for name, reference in images.items():
        if not _IMAGE.match(reference):
            yield f"{where}: {reference!r} is no name of an image ({name}); write host/path:tag or host/path@sha256:…"


def _database_image(images: Mapping[str, str], settings: Settings, where: str) -> Iterator[str]:
    reference = images.get("postgres", "")
    found = _POSTGRES.search(reference)
    # Of an external database the image is only the client.
    if settings["database"] == "container" and found and int(found[1]) >= _POSTGRES_MOVED:
        yield (
            f"{where}: base_images_tags names {reference} for postgres; images of PostgreSQL {_POSTGRES_MOVED} and up "
            "do not keep their data in the volume that the kit gives them, so they would be lost with the container; "
            "write one of 17 or earlier, such as postgres:17.6-trixie, or use an external database"
        )


def _database_name(settings: Settings, where: str) -> Iterator[str]:
    """Whoever leaves backups to a provider may call it as he likes."""
    name = str(settings["database_name"])
    wrong = database_name.problem(name)
    if wrong and (settings["backup_schedule"] or settings["backup_offsite_repository"]):
        yield (
            f"{where}: release_bundle_database_name is {name!r}: {wrong}; write the name of another database, of up to "
            "40 letters, digits and underscores, and bring its tables there (pg_dump, pg_restore)"
        )


def _domains(settings: Settings, where: str) -> Iterator[str]:
    for domain in settings["domains"]:
        if not _DOMAIN.match(str(domain)):
            yield f"{where}: app_domains: {domain!r} is no host name; write such as www.example.com or *.example.com"


def _modes(settings: Settings, where: str) -> Iterator[str]:
    if settings["debug"] and settings["django_env"] == "production":
        yield f"{where}: release_bundle_debug is true in production; take the line out"
    if settings["web_server"] == "runserver" and settings["django_env"] == "production":
        yield f"{where}: release_bundle_web_server is runserver, which is for development; write gunicorn"
    certificate, sslmode = str(settings["database_root_certificate"]), settings["database_sslmode"]
    if settings["database"] == "external" and sslmode.startswith("verify-") and "BEGIN CERTIFICATE" not in certificate:
        yield (
            f"{where}: release_bundle_database_sslmode is {sslmode}; write the certificate of who signed the server's "
            "into release_bundle_database_root_certificate (PEM)"
        )
    if any("\n" in str(settings[f"database_{name}"]) for name in ("host", "name", "user")):
        yield f"{where}: release_bundle_database_host, _name and _user are one line each"
    if int(settings["web_replicas"]) > 1 and not settings.has_edge:
        yield f"{where}: {settings['web_replicas']} web replicas need nginx; write release_bundle_edge: nginx"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
