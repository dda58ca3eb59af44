"""daemon.json: what the user set stays, what the kit set follows the kit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit_control.docker_daemon import Settings, merge, parse, wanted_settings
from kit_control.errors import KitError

LOGS: Settings = {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}}


def wanted(mirrors: tuple[str, ...] = (), *, live_restore: bool = False, size: str = "10m") -> Settings:
    return wanted_settings(
        log_max_size=size, log_max_files=3, registry_mirrors=list(mirrors), live_restore=live_restore
    )


def test_an_empty_file_gets_the_kits_settings() -> None:
    result = merge({}, wanted(("https://m.example.org",), live_restore=True), {})
    assert result.content == {**LOGS, "registry-mirrors": ["https://m.example.org"], "live-restore": True}
    assert result.written == result.content
    assert (result.changed, result.apply, result.kept) == (True, "restart", ())


def test_the_users_values_win_and_this_is_said() -> None:
    user = {"log-opts": {"max-size": "1g", "compress": "true"}, "live-restore": False, "debug": True}
    result = merge(user, wanted(live_restore=True), {})
    assert result.content == {
        "log-driver": "json-file",
        "log-opts": {"max-size": "1g", "compress": "true", "max-file": "3"},
        "live-restore": False,
        "debug": True,
    }
    assert result.written == {"log-driver": "json-file", "log-opts": {"max-file": "3"}}
    assert result.kept == ('log-opts.max-size stays "1g", not "10m"', "live-restore stays false, not true")


def test_another_log_driver_gets_no_options_that_it_would_refuse() -> None:
    user = {"log-driver": "journald", "log-opts": {"tag": "{{.Name}}"}}
    result = merge(user, wanted(), {})
    assert result.content == user
    assert not result.changed
    assert "journald" in result.kept[0]


def test_mirrors_are_added_behind_the_users() -> None:
    result = merge({**LOGS, "registry-mirrors": ["https://own.example.org"]}, wanted(("https://m.example.org",)), {})
    assert result.content["registry-mirrors"] == ["https://own.example.org", "https://m.example.org"]
    assert result.apply == "reload"


def test_what_the_kit_wrote_follows_the_kit() -> None:
    first = merge({"debug": True}, wanted(("https://a.example.org",), live_restore=True), {})
    second = merge(first.content, wanted(("https://b.example.org",), size="50m"), first.written)
    assert second.content == {
        "debug": True,
        "log-driver": "json-file",
        "log-opts": {"max-size": "50m", "max-file": "3"},
        "registry-mirrors": ["https://b.example.org"],
    }


def test_what_the_user_changed_since_then_is_the_users() -> None:
    first = merge({}, wanted(), {})
    edited = {**first.content, "log-opts": {"max-size": "99m", "max-file": "3"}}
    second = merge(edited, wanted(size="50m"), first.written)
    assert second.content["log-opts"] == {"max-size": "99m", "max-file": "3"}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
USER_FILES = st.fixed_dictionaries(
    {},
    optional={
        "log-driver": st.sampled_from(["json-file", "journald", "local"]),
        "log-opts": st.dictionaries(st.sampled_from(["max-size", "max-file", "tag"]), st.text(max_size=4), min_size=1),
        "registry-mirrors": st.lists(
            st.sampled_from(["https://a.example.org", "https://b.example.org"]), unique=True, min_size=1, max_size=2
        ),
        "live-restore": st.booleans(),
        "features": JSON_VALUES,
    },
)
WANTED = st.builds(
    wanted,
    st.lists(st.sampled_from(["https://b.example.org", "https://c.example.org"]), unique=True).map(tuple),
    live_restore=st.booleans(),
    size=st.sampled_from(["10m", "1g"]),
)


@given(USER_FILES, WANTED, WANTED)
def test_for_any_file_nothing_of_the_users_is_lost_and_a_second_run_changes_nothing(
    user: dict[str, Any], first: Settings, second: Settings
) -> None:
    once = merge(user, first, {})
    again = merge(once.content, first, once.written)
    assert not again.changed
    assert again.written == once.written
    # However often the kit's settings change, the result is that of the last ones on the user's own file.
    assert merge(once.content, second, once.written).content == merge(user, second, {}).content
    for key, value in user.items():
        if isinstance(value, dict) and key == "log-opts":
            assert value.items() <= once.content[key].items()
        elif key == "registry-mirrors":
            assert once.content[key][: len(value)] == value
        else:
            assert once.content[key] == value


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"debug": tru}', "line 1, column 11"),
        ("[]", "list"),
        ('{"log-opts": "max-size=10m"}', "log-opts"),
        ('{"registry-mirrors": "https://m.example.org"}', "registry-mirrors"),
    ],
)
def test_a_file_that_dockerd_would_refuse(text: str, part: str) -> None:
    with pytest.raises(KitError, match=r"daemon\.json") as error:
        parse(text)
    assert part in error.value.problem


def test_an_empty_file_is_no_settings() -> None:
    assert parse("") == parse(" \n") == {}
