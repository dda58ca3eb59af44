"""The project manifest (deploy.yml): read, checked against its schema, defaults filled in.

Every mistake is reported at once, each with file, line, column, the path inside the file, what was found and what is
allowed, so that a manifest is mended in one go.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kit_control import memo, yaml_text
from kit_control.errors import KitError

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

SCHEMA_PATH = Path(__file__).with_name("manifest.schema.json")

Position = tuple[int, int]
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Manifest:
    """A valid manifest.

    Attributes:
        path: the file it was read from.
        data: its content with every default filled in.
        source: absolute folder of the Django project.
    """

    path: Path
    data: dict[str, Any]
    source: Path

    @property
    def name(self) -> str:
        """Name of the project, from which folders, network, volumes and image derive."""
        return str(self.data["name"])


def load(path: Path) -> Manifest:
    """Read a manifest.

    Args:
        path: the YAML file.

    Returns:
        The manifest with defaults filled in.

    Raises:
        KitError: the file is missing, is no YAML, or breaks the schema; the message lists every mistake.
    """
    try:
        return _load(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise KitError(
            "manifest",
            f"There is no project manifest at {path}.",
            "Write one (docs/QUICKSTART.md shows how), or name another: make deploy MANIFEST=path/to/deploy.yml",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise KitError("manifest", f"{path} cannot be read: {error}.", f"ls -l {path}") from None


@cache
def _load(path: Path, _mtime_ns: int) -> Manifest:
    """Read a manifest; kept by path and time, since Ansible evaluates the variables that ask for it again and again."""
    text = path.read_text(encoding="utf-8")
    raw, positions = _parse(path, text)
    problems = [*_schema_problems(raw, text), *_duplicate_problems(text)]
    if not problems:
        problems = list(_cross_field_problems(raw, path.parent))
    if problems:
        located = sorted(
            ((_position(positions, at), at, message) for at, message in problems), key=lambda item: item[0]
        )
        lines = [f"  {path}:{line}:{column}: {_dotted(at)}: {message}" for (line, column), at, message in located]
        raise KitError("manifest", "The project manifest has mistakes:\n" + "\n".join(lines), f"Edit {path}")
    data = _with_defaults(raw, schema())
    return Manifest(path=path, data=data, source=(path.parent / data["source"]["path"]).resolve())


@cache
def schema() -> dict[str, Any]:
    """Read the manifest's JSON Schema."""
    content: dict[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return content


def _parse(path: Path, text: str) -> tuple[Any, dict[KeyPath, Position]]:
    """Return the content and, for each path inside it, its line and column (both from 1)."""
    try:
        node = yaml_text.compose(text)
        raw = yaml_text.load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise KitError("manifest", f"{where}: this is not valid YAML: {error.problem}.", f"Edit {path}") from None
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: what looks like a date, and is none.
        raise KitError("manifest", f"{path}: this is not valid YAML: {error}.", f"Edit {path}") from None
    positions: dict[KeyPath, Position] = {}
    if node is not None:
        _collect_positions(node, (), positions)
    return raw, positions


def _collect_positions(node: yaml.Node, at: KeyPath, positions: dict[KeyPath, Position]) -> None:
    positions.setdefault(at, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*at, str(key.value))
            positions[inner] = (key.start_mark.line + 1, key.start_mark.column + 1)
            _collect_positions(value, inner, positions)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_positions(value, (*at, index), positions)


def _duplicate_problems(text: str) -> Iterator[tuple[KeyPath, str]]:
    """A key written twice: YAML readers silently take the last one."""

    def walk(node: yaml.Node, at: KeyPath) -> Iterator[tuple[KeyPath, str]]:
        if isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                name = str(key.value)
                if name in seen:
                    yield (*at, name), f"the key is written twice (first in line {seen[name]}); keep one"
                seen.setdefault(name, key.start_mark.line + 1)
                yield from walk(value, (*at, name))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                yield from walk(value, (*at, index))

    node = yaml_text.compose(text)
    if node is not None:
        yield from walk(node, ())


def _schema_problems(raw: Any, text: str) -> list[tuple[KeyPath, str]]:
    def judge() -> list[tuple[KeyPath, str]]:
        # Here: to load it takes as long as all else of a manifest, and a good one is judged at each command.
        from jsonschema import Draft202012Validator

        errors = Draft202012Validator(schema()).iter_errors(raw)
        ordered = sorted(errors, key=lambda error: [str(part) for part in error.absolute_path])
        return [problem for error in ordered for problem in _explain(error)]

    both = f"{json.dumps(schema())}\0{text}".encode()
    return [] if memo.remembered("valid", both, lambda: not judge()) else judge()


def _explain(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    at: KeyPath = tuple(error.absolute_path)
    found = _shown(error.instance)
    # jsonschema types both as possibly unset, which they never are on a reported error.
    rule: Any = error.validator_value
    schema: Any = error.schema
    instance: Any = error.instance
    # A rule inside propertyNames judges the key itself, so the description of the mapping is the help there.
    about_key = "propertyNames" in error.absolute_schema_path
    if about_key:
        yield (*at, str(error.instance)), f"the name {found} is not allowed here; {_name_rule(error)}"
    elif error.validator == "additionalProperties" and rule is False:
        allowed = sorted(schema.get("properties", {}))
        for key in sorted(set(instance) - set(allowed), key=str):
            yield (*at, str(key)), f"unknown key {key!r}; allowed: {', '.join(allowed)}"
    elif error.validator == "required":
        # One error a key; only its message names it.
        yield at, f"required key {error.message.split(' is a required')[0]} is missing"
    elif error.validator == "type":
        wanted = rule if isinstance(rule, str) else " or ".join(rule)
        yield at, f"found {found}, but {wanted} is wanted{_hint(error)}"
    elif error.validator in ("enum", "const"):
        allowed = [rule] if error.validator == "const" else rule
        yield at, f"found {found}; allowed: {', '.join(map(str, allowed))}"
    elif error.validator == "pattern":
        yield at, f"found {found}, which does not match {rule}{_hint(error)}"
    elif error.validator in ("minimum", "maximum"):
        low, high = schema.get("minimum", "any"), schema.get("maximum", "any")
        yield at, f"found {found}; allowed: {low} to {high}"
    else:
        yield at, f"found {found}: {error.message}"


def _name_rule(error: ValidationError) -> str:
    if error.validator == "not":
        rule: Any = error.validator_value
        reserved = rule.get("enum")
        return f"reserved: {', '.join(reserved)}" if reserved else "it must not end in _FILE"
    return f"it must match {error.validator_value}"


def _hint(error: ValidationError) -> str:
    schema: Any = error.schema
    description = schema.get("description")
    return f" ({description})" if description else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _cross_field_problems(raw: Mapping[str, Any], folder: Path) -> Iterator[tuple[KeyPath, str]]:
    """Rules that span keys, or that look at the project's files."""
    source = folder / raw.get("source", {}).get("path", ".")
    if not source.is_dir():
        yield ("source", "path"), f"there is no folder {source}"
        return
    files = {
        ("python", "requirements"): raw["python"]["requirements"],
        ("python", "dev_requirements"): raw["python"].get("dev_requirements"),
        ("django", "manage"): raw["django"].get("manage", "manage.py"),
    }
    for key_path, name in files.items():
        if name and not (source / name).is_file():
            yield key_path, f"there is no file {source / name}"
    variables: Mapping[str, Mapping[str, Any]] = raw.get("variables", {})
    for name, variable in variables.items():
        at = ("variables", name)
        if "generate" in variable and not variable.get("secret"):
            yield at, "'generate' makes a secret value; add secret: true"
        if variable.get("secret") and variable.get("default"):
            yield (
                at,
                "a secret has no default in the manifest; take the default out (make secrets generates values)",
            )
        if variable.get("from") == "database.password" and not variable.get("secret"):
            yield at, "the database password is a secret; add secret: true"
        if variable.get("from") == "cache.url" and not variable.get("secret"):
            yield at, "the cache's address carries its password; add secret: true"
        earlier = variables.get(variable.get("rotate_to", name), {})
        if "rotate_to" in variable and "generate" not in variable:
            yield at, "'rotate_to' is for a value that the kit makes; add generate: 64"
        if "rotate_to" in variable and not (earlier.get("type") == "list" and earlier.get("secret")):
            yield (*at, "rotate_to"), "earlier values go to a variable with type: list and secret: true"
    yield from _smoke_problems(raw)
    suppliers = [variable.get("from") for variable in variables.values()]
    if "database.host" in suppliers and "database.password" not in suppliers:
        yield ("variables",), "database.host is read, but no variable takes database.password"


def _smoke_problems(raw: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """A request that needs a login says how, and one that may change data is marked."""
    for number, request in enumerate(raw.get("smoke", [])):
        at = ("smoke", number)
        login, writes = request.get("login", "none"), request.get("writes", False)
        if login != "none" and login not in raw.get("login", {}):
            yield (*at, "login"), f"the manifest does not say how that is done; add login: {{{login}: {{path: ...}}}}"
        refused = request.get("status", 200) >= 400
        if request.get("method", "GET") not in ("GET", "HEAD") and not writes and not refused:
            yield (*at, "method"), "such a request may change data; add writes: true, or expect a refusal (status: 4xx)"
        if request.get("permissions") and not (writes and login != "none"):
            yield (*at, "permissions"), "permissions are for requests that write; add writes: true and a login"


def _with_defaults(raw: Any, schema: Mapping[str, Any]) -> Any:
    """Return a copy in which every absent key that has a default in the schema stands with that default."""
    schema = _resolved(schema)
    if isinstance(raw, dict):
        known: Mapping[str, Any] = schema.get("properties", {})
        rest = schema.get("additionalProperties")
        filled = {
            key: _with_defaults(value, known.get(key, rest if isinstance(rest, Mapping) else {}))
            for key, value in raw.items()
        }
        for key, inner in known.items():
            inner = _resolved(inner)
            if key not in filled and "default" in inner:
                filled[key] = _with_defaults(copy.deepcopy(inner["default"]), inner)
        return filled
    if isinstance(raw, list):
        return [_with_defaults(value, schema.get("items", {})) for value in raw]
    return raw


def _resolved(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = entry.get("$ref")
    if not reference:
        return entry
    definition: Mapping[str, Any] = schema()["$defs"][reference.rsplit("/", 1)[1]]
    return {**definition, **{key: value for key, value in entry.items() if key != "$ref"}}


def _position(positions: Mapping[KeyPath, Position], key_path: KeyPath) -> Position:
    """Line and column of a path, or of its nearest ancestor that is written down."""
    while key_path and key_path not in positions:
        key_path = key_path[:-1]
    return positions.get(key_path, (1, 1))


def _dotted(key_path: KeyPath) -> str:
    return ".".join(str(part) for part in key_path) or "(top level)"
