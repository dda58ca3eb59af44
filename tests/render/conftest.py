"""Each environment is rendered once for the whole run, by the playbook that users call."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.kit import EXAMPLE, IMAGES, Rendered, plain_values, playbook, secret_tokens


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Render an environment with readable stand-ins for secrets and images; returns the bundle's folder."""
    done: dict[tuple[str, Path], Path] = {}

    def render(env: str, manifest: Path = EXAMPLE) -> Path:
        if (env, manifest) not in done:
            scratch = tmp_path_factory.mktemp(env)
            variables = {
                "project_manifest": str(manifest),
                "release_bundle_images": IMAGES,
                "release_bundle_secret_values": secret_tokens(manifest),
                "app_variables": plain_values(manifest),
                "app_domains": ["www.example.com", "example.com"],
            }
            run = playbook("render", env, variables, scratch=scratch)
            assert run.code == 0, run.output
            done[env, manifest] = scratch / "build" / env
        return done[env, manifest]

    return render
