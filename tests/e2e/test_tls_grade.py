"""What visitors get over TLS, judged by testssl.sh: the second project as prod, signed for by a private authority."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.certificates import authorities, issue
from support.engine import app_image, base_image, bring
from support.kit import FIXTURE, Run, playbook
from testbed.hosts import Host, borrowed
from testbed.project import DOMAIN, inventory_variables

pytestmark = [pytest.mark.host, pytest.mark.engine, pytest.mark.slow]

# An engine is installed from Debian's mirror.
SECONDS = 300
# 82 s were measured on 2 very busy cores.
GRADE_SECONDS = 240
SECRETS = {"KEY": "key-of-the-grade-" + "abcdefghij" * 6, "PGPASSWORD": "password-of-the-grade-1234567890"}
# What a grade is made of; no name is looked up, and nothing outside the host is asked.
GRADE = (
    "testssl --quiet --color 0 --warnings batch --nodns min --ip 127.0.0.1 --protocols --std"
    " --fs --server-defaults --headers --vulnerable"
)


@dataclass(frozen=True)
class Site:
    """A host, and the play that deploys to it."""

    host: Host
    scratch: Path
    inventory: Path

    def play(self, name: str, **changes: Any) -> Run:
        """Run a playbook for prod."""
        given = {
            "project_manifest": str(self.scratch / "source/deploy.yml"),
            "vault_secrets": SECRETS,
            "tls_mode": "provided",
            **{f"tls_{part}_file": str(self.scratch / f"{part}.pem") for part in ("certificate", "key", "ca")},
            "smoke_trust_file": str(self.scratch / "ca.pem"),
            **changes,
        }
        return playbook(name, "prod", given, "-i", str(self.inventory), scratch=self.scratch, limit=SECONDS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A Debian 13 host that serves the project; older releases have no testssl.sh that grades."""
    scratch = tmp_path_factory.mktemp("grade")
    shutil.copytree(FIXTURE.parent, scratch / "source", ignore=shutil.ignore_patterns("__pycache__"))
    issued = issue([DOMAIN], authorities(), revocations=f"http://{DOMAIN}/revoked.crl")
    for name, content in (("certificate", issued.chain), ("key", issued.key_pem), ("ca", issued.root)):
        (scratch / f"{name}.pem").write_text(content)
    with borrowed(distro="trixie", variables=inventory_variables(FIXTURE)) as run:
        made = Site(run.hosts[0], scratch, run.inventory)
        prepared = made.play("prepare", base_images_wanted=[])
        assert prepared.code == 0, prepared.output
        images = [
            app_image(scratch / "source/deploy.yml", "release"),
            *map(base_image, ("python", "postgres", "nginx")),
        ]
        bring(made.host.ssh_words, images)
        deployed = made.play("deploy")
        assert deployed.code == 0, deployed.output
        yield made


def test_smoke_checks_trust_the_given_authority_and_no_other(site: Site) -> None:
    smoke = site.play("smoke")
    assert smoke.code == 0, smoke.output
    unknown = site.play("smoke", smoke_trust_file="")
    assert unknown.code != 0
    assert f"{DOMAIN}: unable to get local issuer certificate" in unknown.output, unknown.output


def test_grade_is_the_best_and_nothing_is_severe(site: Site) -> None:
    site.host.run(
        "sudo apt-get install --quiet=2 --yes --no-install-recommends testssl.sh >/dev/null 2>&1", timeout=120
    )
    root = (site.scratch / "ca.pem").read_bytes()
    said = site.host.run(
        f"cat > ca.pem; {GRADE} --add-ca ca.pem --jsonfile grade.json {DOMAIN}:443; code=$?; test $code -lt 242",
        stdin=root, timeout=GRADE_SECONDS,
    )  # fmt: skip
    found = json.loads(site.host.run("cat grade.json").stdout)
    grades = [one["finding"] for one in found if one["id"] == "overall_grade"]
    severe = {one["id"]: one["finding"] for one in found if one["severity"] in ("HIGH", "CRITICAL", "FATAL")}
    assert (grades, severe) == (["A+"], {}), said.stdout
