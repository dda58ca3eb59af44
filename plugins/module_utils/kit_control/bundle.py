"""Render a stack into its bundle: the Compose file, the .env file, nginx's folder and the engine's description."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from kit_control import dotenv_file, memo
from kit_control.context import Stack
from kit_control.errors import KitError

COMPOSE_TEMPLATE = "docker-compose.yml.j2"
PUBLIC_MODE, PRIVATE_MODE = 0o644, 0o600


@dataclass(frozen=True)
class File:
    """One file of a bundle: its path inside, text and mode."""

    path: str
    text: str
    mode: int = PUBLIC_MODE

    @property
    def content(self) -> bytes:
        """The text as it is written."""
        return self.text.encode()


def compose_value(value: Any) -> str:
    """Write a value as YAML that Compose reads back unchanged.

    Args:
        value: a string, number, list or mapping.

    Returns:
        JSON (a subset of YAML) with every ``$`` doubled, since Compose would take one for the start of a variable.
    """
    return json.dumps(value, ensure_ascii=False).replace("$", "$$")


def render(stack: Stack, root: Path) -> list[File]:
    """Render every file of a bundle.

    Args:
        stack: what to print.
        root: the kit's folder with compose/, env/ and nginx/.

    Returns:
        The files, sorted by path.

    Raises:
        KitError: a template uses a variable that does not exist.
    """
    env = stack.context["env"]
    files = [
        File(f"docker-compose.{env}.yml", _print(root / "compose", COMPOSE_TEMPLATE, stack.context)),
        File(f".env.{env}", dotenv_file.encode(stack.environment, stack.meanings), PRIVATE_MODE),
        File("stack.json", json.dumps(stack.description, indent=2, ensure_ascii=False) + "\n"),
    ]
    files += [File(f"secrets/{name}", value, PRIVATE_MODE) for name, value in stack.secrets.items()]
    if "nginx" in stack.context["services"]:
        files += _nginx_files(root / "nginx", stack.context)
    return sorted(files, key=lambda file: file.path)


def write(files: list[File], folder: Path) -> list[str]:
    """Bring a folder to hold exactly the bundle's files.

    Args:
        files: the bundle.
        folder: where to; made when absent.

    Returns:
        Paths that were written or removed, sorted; empty when all was so already.
    """
    changed = []
    for file in files:
        target = folder / file.path
        private = file.mode == PRIVATE_MODE and target.parent != folder
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o755)
        if _differs(target, file):
            # Created with its final mode: a secret is never readable in between.
            temporary = target.with_name(f"{target.name}.new")
            temporary.unlink(missing_ok=True)
            temporary.touch(mode=file.mode)
            temporary.write_text(file.text, encoding="utf-8")
            temporary.chmod(file.mode)
            temporary.replace(target)
            changed.append(file.path)
    changed += _remove_strangers(folder, {file.path for file in files})
    return sorted(changed)


def differences(files: list[File], folder: Path) -> list[str]:
    """Name the files that :func:`write` would change, without changing any."""
    wanted = {file.path for file in files}
    return sorted(
        [file.path for file in files if _differs(folder / file.path, file)] + list(_strangers(folder, wanted))
    )


def _differs(target: Path, file: File) -> bool:
    if not target.is_file():
        return True
    return target.read_text(encoding="utf-8") != file.text or stat.S_IMODE(target.stat().st_mode) != file.mode


def _strangers(folder: Path, wanted: set[str]) -> Iterator[str]:
    """Files of an earlier bundle: only in the places that bundles write to, since a local deploy root lies beside."""
    candidates = [*folder.glob("docker-compose.*.yml"), *folder.glob(".env.*"), *folder.glob("secrets/*")]
    candidates += [path for path in folder.glob("nginx/**/*") if path.is_file()]
    for path in candidates:
        name = path.relative_to(folder).as_posix()
        if name not in wanted:
            yield name


def _remove_strangers(folder: Path, wanted: set[str]) -> list[str]:
    removed = list(_strangers(folder, wanted))
    for name in removed:
        (folder / name).unlink()
    return removed


def _nginx_files(folder: Path, context: Mapping[str, Any]) -> Iterator[File]:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        if name.endswith(".j2"):
            yield File(f"nginx/{name.removesuffix('.j2')}", _print(folder, name, context))
        else:
            yield File(f"nginx/{name}", path.read_text(encoding="utf-8"))


def _compiled() -> jinja2.BytecodeCache | None:
    """Where templates lie compiled, by their text; a release that changes nothing renders to compare."""
    try:
        memo.FOLDER.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return jinja2.FileSystemBytecodeCache(str(memo.FOLDER)) if os.access(memo.FOLDER, os.W_OK) else None


def _print(folder: Path, name: str, context: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        bytecode_cache=_compiled(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - YAML and nginx files, no HTML; values pass through the compose filter
    )
    environment.filters["compose"] = compose_value
    try:
        return environment.get_template(name).render(context)
    except jinja2.TemplateError as error:
        place = f"{folder.name}/{getattr(error, 'name', None) or name}"
        raise KitError("render", f"Template {place} cannot be rendered: {error}.", f"Edit {place}") from error
