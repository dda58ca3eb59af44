"""Pages name the static files of their own release, by names with a hash in them, and every one is served."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from support import host_releases, traffic
from support.engine_stack import docker
from support.host_releases import BROKEN, DOMAIN, HostReleases, Version, demand_served, demand_whole
from support.traffic import Traffic

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# A page that names each file, with Django's own strict manifest.
SETTINGS = """
from django.templatetags.static import static

INSTALLED_APPS += ["django.contrib.staticfiles"]
STATIC_URL, STATIC_ROOT = "/static/", os.environ["STATIC_ROOT"]
STATICFILES_DIRS = [Path(__file__).parent / "static"]
STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}}


def page(_request):
    return HttpResponse(" ".join(static(path.name) for path in sorted(STATICFILES_DIRS[0].iterdir())))


urlpatterns += [path("page", page)]
"""
BUILD = {
    "commands": [["python", "manage.py", "collectstatic", "--noinput"]],
    "environment": {
        "KEY": "k" * 64, "HOSTS": "build.invalid", "GUESTBOOK_DEBUG": "false",
        "PGHOST": "build.invalid", "PGDATABASE": "build", "PGUSER": "build", "PGPASSWORD": "build",
    },
}  # fmt: skip
VARIABLES = {"STATIC_ROOT": {"from": "static_root", "meaning": "Where static files are collected."}}
# Of web, and seconds until all are new.
WORKERS, PATIENCE_SECONDS = 2, 30.0


def version(host: HostReleases, text: str, files: Mapping[str, str], settings: str = "") -> Version:
    """A version with these static files."""
    return host.version(
        text,
        settings=SETTINGS + settings,
        manifest={"build": BUILD},
        further_variables=VARIABLES,
        files={f"static/{name}": content for name, content in files.items()},
    )


@dataclass
class Static:
    """The host, and two versions: the second changes a file, renames one, and brings one of the same name."""

    host: HostReleases
    one: Version
    two: Version


ONE = {"site.css": "a { color: red }", "old.css": "b { color: red }", "robots.txt": "one"}
TWO = {"site.css": "a { color: blue }", "new.css": "b { color: red }", "robots.txt": "two"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Static]:
    """A host on which the first version serves; removed whatever happens."""
    host = host_releases.make(tmp_path_factory.mktemp("static"))
    try:
        made = Static(host, version(host, "one", ONE), version(host, "two", TWO))
        told = host.deploy(made.one)
        assert told.code == 0, told.err
        yield made
    finally:
        host.remove()


@dataclass
class Visitor:
    """Who asks for the page and then for all that it names.

    Attributes:
        load: other visitors of the page.
        pages: how many came.
        missing: what was not served, with the page that named it.
    """

    load: Traffic
    pages: int = 0
    missing: list[str] = field(default_factory=list)

    def visit(self) -> None:
        """Once."""
        page = self.load.text("/page")
        self.pages += 1
        self.missing += [] if page else ["/page"]
        self.missing += [f"{name} of {page}" for name in page.split() if not self.load.text(name)]


@contextmanager
def visited(host: HostReleases) -> Iterator[Visitor]:
    """Have visitors come, and one look at all files, for as long as the block lasts."""
    load = Traffic(host.https_port, DOMAIN, 60.0, "/page", "/add")
    visitor, ends = Visitor(load), threading.Event()

    def come() -> None:
        while not ends.wait(0.02):
            visitor.visit()

    with load.running():
        thread = threading.Thread(target=come, daemon=True)
        thread.start()
        try:
            time.sleep(0.5)
            yield visitor
            time.sleep(0.5)
        finally:
            ends.set()
            thread.join()
    demand_served(traffic.summary(load.requests))
    assert visitor.missing == []
    assert visitor.pages > 10


def workers(host: HostReleases) -> set[str]:
    """Numbers of the web's workers."""
    (web,) = host.containers()["web"]
    rows = [line.split() for line in docker("top", web, "-o", "pid,ppid").splitlines()[1:]]
    return {pid for pid, _parent in rows} - {parent for _pid, parent in rows}


def recycle(host: HostReleases) -> None:
    """Have new workers of the release that serves, as after the thousandth request of each."""
    (web,) = host.containers()["web"]
    before = workers(host)
    docker("kill", "--signal", "HUP", web)
    end = time.monotonic() + PATIENCE_SECONDS
    while (there := workers(host)) & before or len(there) < WORKERS:
        assert time.monotonic() < end, (before, there)
        time.sleep(0.2)


def test_new_processes_of_the_old_release_know_its_files_after_a_failed_one(site: Static) -> None:
    host, serving = site.host, site.host.current
    arguments, code, _words = BROKEN["answers with errors"]
    broken = version(host, "broken", TWO, arguments["settings"])
    with visited(host):
        told = host.deploy(broken)
        assert (told.code, told.json["code"]) == (1, code), told.err
        recycle(host)
        time.sleep(1)
    demand_whole(host, serving, "one")
    # Its own are served too where another release's had the same name.
    assert host.ask("/static/robots.txt") == "one"


def test_a_page_and_all_that_it_names_are_served_through_a_deploy_and_back(site: Static) -> None:
    host, first = site.host, site.host.current
    with visited(host):
        told = host.deploy(site.two)
        assert told.code == 0, told.err
        assert "new." in host.ask("/page")
        assert host.ask("/static/robots.txt") == "two"
        recycle(host)
        told = host.rollback()
        assert told.code == 0, told.err
        assert "old." in host.ask("/page")
        assert host.ask("/static/robots.txt") == "one"
        recycle(host)
    demand_whole(host, first, "one")


def test_what_the_gate_refuses_goes_back_to_pages_that_are_whole(site: Static) -> None:
    host, first = site.host, site.host.current
    with visited(host):
        told = host.deploy(site.two, problem="no style sheet")
        assert (told.code, told.json["code"]) == (1, "smoke"), told.err
        assert "old." in host.ask("/page")
    demand_whole(host, first, "one")


def test_the_files_of_kept_releases_are_served_and_those_of_others_go(site: Static) -> None:
    host, pages, counts = site.host, {}, []
    volume = f"{host.project}_static_volume"
    (web,) = host.containers()["web"]
    docker("exec", web, "touch", "/var/app/static/put-there.txt")
    for number in range(5):
        files = {"site.css": f"/* {number} */", f"only-{number}.css": "c { color: red }"}
        told = host.deploy(version(host, f"growth {number}", files), keep=2)
        assert told.code == 0, told.err
        assert "warning" not in told.err
        pages[host.current] = host.ask("/page").split()
        (web,) = host.containers()["web"]
        counts.append(len(docker("exec", web, "find", "/var/app/static", "-type", "f").splitlines()))
    kept = [page for name, page in pages.items() if (host.root / "releases" / name).is_dir()]
    assert len(kept) == 3
    assert counts[-1] == counts[-2]
    for name in (name for page in kept for name in page):
        host.ask(name)
    gone = [f"/static/{list_}" for list_ in (f".kit/{host.current}", "only-0.css")]
    for path in [*gone, *(name for name in next(iter(pages.values())) if "only-0" in name)]:
        with pytest.raises(subprocess.CalledProcessError):
            host.ask(path)
    # Whatever somebody else put there is theirs.
    host.ask("/static/put-there.txt")
    assert docker("volume", "ls", "--quiet", "--filter", f"name={volume}").split() == [volume]
