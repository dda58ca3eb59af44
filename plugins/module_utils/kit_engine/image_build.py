"""Build an image with BuildKit; what only the build may know reaches it as secrets and stays in no layer."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Optional

from kit_engine import docker_socket, lock, machine
from kit_engine.base_images import recipe
from kit_engine.command import tail
from kit_engine.errors import EngineError

# Measured on 2 cores: 5 to 30 s for an image with nothing in the cache. A slow mirror may take ten times that.
LIMIT_SECONDS = 900.0


def build(
    ref: str,
    context: Path | IO[bytes],
    *,
    code: str,
    arguments: Mapping[str, str],
    extra_ca_bundle: str,
    target: str = "",
    labels: Optional[Mapping[str, str]] = None,
) -> None:
    """Build one image and load it into the engine.

    Args:
        ref: name and tag it gets.
        context: a folder with a Dockerfile, or the stream of a tar archive of one.
        code: code of the error if it fails.
        arguments: build arguments; never a secret.
        extra_ca_bundle: certificates for downloads; empty for none.
        target: stage of the Dockerfile; empty for the last.
        labels: labels of the image.

    Raises:
        EngineError: the build failed or took too long; the message holds its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="kit-build-") as folder:
        # Where our base images are.
        words = ["docker", "buildx", "build", f"--builder={docker_socket.builder()}", "--load", "--progress=plain"]
        words += [f"--tag={ref}"]
        words += [f"--target={target}"] if target else []
        words += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        words += [f"--label={name}={value}" for name, value in (labels or {}).items()]
        for key, path in _secret_files(Path(folder), extra_ca_bundle).items():
            words.append(f"--secret=id={key},src={path}")
        try:
            done = subprocess.run(  # noqa: S603 - an argument list of our own, no shell
                [*words, str(context) if isinstance(context, Path) else "-"],
                stdin=subprocess.DEVNULL if isinstance(context, Path) else context,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                timeout=LIMIT_SECONDS,
                check=False,
                pass_fds=lock.inherited(),
            )
        except subprocess.TimeoutExpired:
            raise EngineError(
                code,
                f"Building {ref} was given {LIMIT_SECONDS:.0f} s and has not ended; it was stopped.",
                "check that this machine's apt and pip reach their servers, then repeat the command",
            ) from None
    if done.returncode:
        raise EngineError(
            code,
            f"Building {ref} failed:\n{tail(done.stdout)}",
            "mend what is named above; if containers reach no package server: extra_ca_bundle",
        )


def _secret_files(folder: Path, extra_ca_bundle: str) -> dict[str, str]:
    # In an image lies Debian's own keyring alone.
    sources = [
        machine.Source(source.uris, source.suites, source.components, machine.DEFAULT_KEYRING)
        for source in machine.sources_for(recipe.SUITE, machine.code_name(), machine.machine_sources())
    ]
    texts = {
        "apt_sources": machine.render_sources(sources),
        "pip_conf": machine.pip_configuration(),
        "uv_toml": machine.uv_configuration(),
    }
    files = {}
    for key, text in texts.items():
        if text:
            path = folder / key
            path.touch(mode=0o600)
            path.write_text(text, encoding="utf-8")
            files[key] = str(path)
    if extra_ca_bundle:
        files["ca"] = extra_ca_bundle
    return files
