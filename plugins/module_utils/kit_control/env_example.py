"""env/.env.example: every variable that the project reads, for people; written from the manifest so that it stays true.

``python -m kit_control.env_example MANIFEST TARGET`` writes it anew.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit_control import dotenv_file, manifest
from kit_control.variables import as_text


def example(project: manifest.Manifest) -> str:
    """List the project's variables as a .env file.

    Args:
        project: the manifest.

    Returns:
        The file's text: each variable with its meaning, type, where it is required, who gives it, and its default. A
        secret has no value.
    """
    parts = [
        f"# The environment variables of {project.name}, from its manifest; written by: make env-example\n"
        "# An environment's own file is rendered: make render ENV=prod\n"
    ]
    for name, variable in project.data["variables"].items():
        notes = [variable["type"], *_notes(variable)]
        value = "" if variable["secret"] else as_text(variable.get("default", ""))
        parts.append(dotenv_file.encode({name: value}, {name: f"{variable['meaning']}\n({'; '.join(notes)})"}))
    return "\n".join(parts)


def _notes(variable: Mapping[str, Any]) -> list[str]:
    notes = []
    required = variable["required"]
    if required is True:
        notes.append("required")
    elif required:
        notes.append(f"required in {', '.join(required)}")
    if variable["secret"]:
        notes.append("secret: make secrets makes it" if "generate" in variable else "secret: under vault_secrets")
    if "from" in variable:
        notes.append("the kit gives it")
    if "min_length" in variable:
        notes.append(f"{variable['min_length']} characters or more")
    return notes


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.parent.mkdir(exist_ok=True)
    target.write_text(example(manifest.load(Path(sys.argv[1]))), encoding="utf-8")
