"""A PostgreSQL that wants TLS: an image that can do it, and who signs its certificates."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from kit_engine import image_build
from kit_engine.base_images import recipe

from support.engine import base_image
from support.engine_stack import docker
from support.external import Server

# Debian's own, under the entry point of ours.
_DOCKERFILE = """
ARG DEBIAN
FROM ${DEBIAN}
RUN --mount=type=secret,id=apt_sources,target=/etc/apt/sources.list.d/build.sources \\
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \\
    install -d /etc/postgresql-common \\
    && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf \\
    && apt-get update --quiet=2 \\
    && apt-get install --quiet=2 --yes --no-install-recommends postgresql-17 \\
    && rm -rf /var/lib/apt/lists/*
COPY entrypoint.sh /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
    PGDATA=/var/lib/postgresql/data LANG=C.UTF-8
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
"""
_DATA = "/var/lib/postgresql/data"
_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


@contextmanager
def image() -> Iterator[str]:
    """Give an image of PostgreSQL with TLS: the environment's own where it can do that, else one of another version."""
    own = base_image("postgres")
    if "ssl" in docker("run", "--rm", "--network", "none", "--entrypoint", "pg_config", own, "--configure"):
        yield own
        return
    # Others on this machine may be at the same.
    tag = f"kit-test/postgres-tls:{uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        recipe.write_context("postgres", Path(folder))
        (Path(folder) / "Dockerfile").write_text(_DOCKERFILE)
        arguments = {"DEBIAN": recipe.packages_ref("debian")}
        image_build.build(tag, Path(folder), code="image", arguments=arguments, extra_ca_bundle="")
    try:
        yield tag
    finally:
        docker("image", "rm", "--force", tag)


class Authority:
    """Who signs certificates.

    Args:
        folder: for its files; made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self._key, self._path = folder, folder / "authority.key", folder / "authority.pem"
        self._openssl("req", "-x509", *_EC, "-subj", "/CN=authority", "-keyout", self._key, "-out", self._path)

    @property
    def certificate(self) -> str:
        """Its own."""
        return self._path.read_text()

    def install(self, server: Server, name: str) -> None:
        """Have a server talk TLS only, with a certificate for a name, such as ``IP:192.0.2.1``."""
        key, path = self.folder / "server.key", self.folder / "server.pem"
        self._openssl("req", "-x509", *_EC, "-subj", "/CN=server", "-addext", f"subjectAltName={name}",
                      "-CA", self._path, "-CAkey", self._key, "-keyout", key, "-out", path)  # fmt: skip
        for one in (key, path):
            docker("cp", str(one), f"{server.name}:{_DATA}/{one.name}")
        docker("exec", server.name, "sh", "-c", f"cd {_DATA} && chown postgres server.* && chmod 600 server.key && "
               "printf 'local all all trust\\nhostssl all all all scram-sha-256\\n' >pg_hba.conf")  # fmt: skip
        server.sql(
            "ALTER SYSTEM SET ssl_cert_file = 'server.pem'", "ALTER SYSTEM SET ssl = on",
            "SELECT pg_reload_conf()", database="postgres",
        )  # fmt: skip

    def _openssl(self, *words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], capture_output=True, check=True)
