"""The site: ready, the release that was deployed, its files, and the manifest's own requests."""

from __future__ import annotations

import json
import re
import secrets
from http.client import SERVICE_UNAVAILABLE
from typing import Any

import pytest

from smoke.checked import Checked
from smoke.remote import NoAnswer
from smoke.target import Target

# Enough to see that files are published at all; every one is asked for in the whole run.
SAMPLE = 3


@pytest.mark.gate
def test_site_is_ready(target: Target, checked: Checked) -> None:
    answer = checked.page(target.stack["probe"]["ready"])
    assert answer.status == 200, f"{target.stack['probe']['ready']} answers {answer.status}: {answer.text[:200]}"


@pytest.mark.gate
def test_site_is_the_release_that_was_deployed(target: Target, checked: Checked) -> None:
    release = checked.facts["release"]
    if not release or not target.project["names_release"]:
        pytest.skip("no release is named here")
    try:
        told = json.loads(checked.page(target.stack["probe"]["ready"]).body).get("release")
    except (ValueError, AttributeError):
        pytest.skip("the readiness page does not name the release")
    assert told == release, f"release {told or '(none)'} answers, {release} was deployed"


@pytest.mark.gate
def test_some_static_files_are_served(target: Target, checked: Checked) -> None:
    _served(target, checked, _static_files(checked)[:SAMPLE])


def test_every_static_file_is_served(target: Target, checked: Checked) -> None:
    _served(target, checked, _static_files(checked))


def test_static_files_are_kept_as_long_as_told(target: Target, checked: Checked) -> None:
    if not target.has_edge:
        pytest.skip("there is no nginx in this environment to tell how long")
    pattern, hashed, other = target.cache_rules
    for name in _static_files(checked)[:SAMPLE]:
        path = f"{target.project['static']}{name}"
        wanted = hashed if re.search(pattern, path) else other
        found = checked.page(path).headers.get_all("Cache-Control")
        assert found == [wanted], f"{path} has {found}, not {wanted!r}"
    missing = checked.page(f"{target.project['static']}kit-smoke-nowhere.css")
    assert "max-age" not in missing.headers.get("Cache-Control", ""), "a file that is not there is kept"


def test_request(target: Target, checked: Checked, smoke_request: dict[str, Any]) -> None:
    one = smoke_request
    unique = f"kit-{secrets.token_hex(6)}"
    headers: dict[str, str] = {}
    body = None
    if "body" in one:
        body = json.dumps(one["body"]).replace("{unique}", unique).encode()
        headers["Content-Type"] = "application/json"
    request = {"method": one["method"], "body": body, "headers": headers}
    if one["login"] == "none":
        answer = checked.site.ask(one["path"], **request)
        # Asked first, since health paths and static files are answered all the same.
        if answer.status == SERVICE_UNAVAILABLE != one["status"]:
            checked.skip_if_closed()
    else:
        checked.skip_if_closed()
        try:
            visitor = checked.visitor
        except NoAnswer as error:
            pytest.fail(f"no account to sign in with: {error}")
        visitor.sign_in(one["login"], target.project["login"][one["login"]])
        answer = visitor.ask(one["login"], one["path"], **request)
    asked = f"{one['method']} {one['path']}"
    assert answer.status == one["status"], (
        f"{asked} answers {answer.status}, not {one['status']}: {_short(answer.text)}"
    )
    text = one["text"].replace("{unique}", unique)
    assert text in answer.text, f"{asked} does not hold {text!r}: {_short(answer.text)}"


@pytest.mark.writes
def test_upload_is_served(target: Target, checked: Checked) -> None:
    if not target.keeps_uploads:
        pytest.skip("the project keeps no uploads here")
    checked.skip_if_closed()
    try:
        trial = checked.trial
    except NoAnswer as error:
        pytest.fail(f"no file could be uploaded: {error}")
    answer = checked.site.ask(trial["url"])
    assert answer.status == 200, f"{trial['url']} answers {answer.status}"
    assert answer.text == trial["upload"], f"{trial['url']} is another file"


def _static_files(checked: Checked) -> list[str]:
    files = checked.facts["static"]
    if files is None:
        pytest.skip("the project publishes no manifest of static files here")
    found: list[str] = files
    return found


def _served(target: Target, checked: Checked, names: list[str]) -> None:
    missing = []
    for name in names:
        path = f"{target.project['static']}{name}"
        answer = checked.site.ask(path)
        if answer.status != 200 or not answer.body:
            missing.append(f"{path} ({answer.status})")
    assert not missing, f"{len(missing)} of {len(names)} are not served, such as {', '.join(missing[:3])}"


def _short(text: str) -> str:
    return " ".join(text.split())[:150] or "(empty)"
