"""One change of a host at a time: real processes, killed and cut off as they are in life."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

import pytest
from kit_control import host_lock
from kit_engine import cli, lock, signals
from kit_engine.errors import EngineError
from support.sessions import PATIENCE, Programs, is_free, leave, line, take_lock, told, until


def test_a_second_one_is_refused_and_told_by_whom_since_when_and_what_to_type(root: Path, programs: Programs) -> None:
    programs.holder(root)
    time.sleep(1.1)
    with pytest.raises(EngineError) as refused, lock.held(root, "./docker-manage.sh prod up", "bob@desk"):
        pass
    assert refused.value.code == "locked"
    assert re.fullmatch(
        r"Another command is at work on this host since \d\d:\d\d:\d\d \([1-9] s\): "
        r"make deploy ENV=prod, user ada on laptop\.",
        refused.value.problem,
    )
    assert refused.value.remedy == "wait, or: ./docker-manage.sh prod up --wait 600"


def test_waiting_gets_it_and_says_once_for_whom(root: Path, programs: Programs) -> None:
    programs.holder(root, seconds="1.5")
    said: list[str] = []
    with lock.held(root, "make deploy ENV=prod", "bob@desk", wait=PATIENCE, say=said.append):
        pass
    (text,) = said
    assert "user ada on laptop. Waiting up to 20 s" in text


def test_a_wait_ends(root: Path, programs: Programs) -> None:
    programs.holder(root)
    begun = time.monotonic()
    with pytest.raises(EngineError) as refused, lock.held(root, "make deploy ENV=prod", "bob@desk", wait=1):
        pass
    assert 1 <= time.monotonic() - begun < PATIENCE
    assert refused.value.remedy == "wait, or: make deploy ENV=prod WAIT=600"


def test_inside_itself_it_does_nothing(root: Path) -> None:
    with lock.held(root, "one", "ada@laptop"):
        (descriptor,) = lock.inherited()
        with lock.held(root, "two", "ada@laptop"):
            assert lock.inherited() == (descriptor,)
        assert lock.inherited() == (descriptor,)
    assert lock.inherited() == ()


def test_other_roots_do_not_wait(root: Path, tmp_path: Path, programs: Programs) -> None:
    programs.holder(root)
    other = tmp_path / "other"
    other.mkdir()
    assert is_free(other)
    lock.place_of(other).unlink()


def test_one_that_is_killed_leaves_none_once_its_program_has_ended(root: Path, programs: Programs) -> None:
    holder = programs.holder(root, seconds="3")
    until(lambda: bool(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text()))
    holder.kill()
    holder.wait()
    # What it had started is still at work on the host.
    assert not is_free(root)
    until(lambda: is_free(root))


def test_a_stack_in_place_keeps_it_in_its_folder(root: Path, programs: Programs) -> None:
    (root / lock.STACK_FILE).write_text("{}")
    assert lock.place_of(root) == root / ".lock"
    holder = programs.holder(root)
    assert not is_free(root)
    os.killpg(holder.pid, signal.SIGKILL)
    until(lambda: is_free(root))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root locks a host")
def test_a_host_has_it_where_only_root_may_write_and_a_reboot_clears(root: Path) -> None:
    place = lock.place_of(root)
    assert place.parent == Path("/run")
    assert is_free(root)
    assert place.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("user", ['o\'hara "the" $(boss)', "jürgen", "\N{PARTY POPPER}", "\udcff", "a@b", "x\n\x1b[2J"])
def test_odd_names(root: Path, user: str) -> None:
    with lock.held(root, "make deploy ENV=prod", f"{user}@laptop"):
        there = json.loads(lock.place_of(root).read_text())
        assert (there["who"], there["node"]) == (user, "laptop")
        shown = lock.Owner(**there).told()
    shown.encode("utf-8")
    assert shown.isprintable()
    assert user.isprintable() is (f"user {user} on laptop" in shown)


def test_who_calls_can_be_written_whatever_the_user_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", os.fsdecode(b"j\xfcrgen"))
    for who in (lock.caller(), host_lock.who()):
        assert who.encode("utf-8").startswith(b"j\\udcfcrgen@")


def test_a_session_holds_it_until_it_is_ended(root: Path, programs: Programs) -> None:
    session = programs.session(root)
    assert told(session)["ok"] is True
    assert not is_free(root)
    orders = cast("IO[str]", session.stdin)
    orders.write("\0")
    orders.flush()
    # At once: not when it has long been silent.
    assert session.wait(5) == 0
    assert line(session) == ""
    assert is_free(root)
    assert not lock.socket_of(lock.place_of(root)).exists()


def test_a_session_is_refused_waits_and_then_has_it(root: Path, programs: Programs) -> None:
    holder = programs.holder(root)
    refused = programs.session(root)
    answer = told(refused)
    assert (answer["code"], answer["ok"]) == ("locked", False)
    assert answer["next"] == "wait, or: make deploy ENV=prod WAIT=600"
    waiting = programs.session(root, wait=PATIENCE)
    assert "user ada on laptop" in told(waiting)["waiting"]
    os.killpg(holder.pid, signal.SIGKILL)
    assert told(waiting)["ok"] is True


def test_a_node_that_goes_while_it_waits_ends_the_wait(root: Path, programs: Programs) -> None:
    programs.holder(root)
    waiting = programs.session(root, wait=60)
    told(waiting)
    leave(waiting)
    assert waiting.wait(PATIENCE) == 1


def test_steps_hold_it_though_the_session_is_killed(root: Path, programs: Programs) -> None:
    session = programs.session(root)
    step = programs.step(root, told(session)["token"])
    session.kill()
    session.wait()
    assert not is_free(root)
    step.kill()
    until(lambda: is_free(root))
    # The next session is not kept from its socket by what the killed one left.
    assert told(programs.session(root))["ok"] is True


def test_a_lost_node_ends_its_steps_and_frees_the_host(root: Path, programs: Programs) -> None:
    session = programs.session(root)
    step = programs.step(root, told(session)["token"])
    leave(session)
    assert line(step) == "interrupted"
    session.wait(PATIENCE)
    assert is_free(root)


def test_what_is_unsafe_to_end_is_finished_first(root: Path, programs: Programs) -> None:
    session = programs.session(root)
    step = programs.step(root, told(session)["token"], deferred=2)
    leave(session)
    time.sleep(0.7)
    # A second signal changes nothing.
    step.send_signal(signal.SIGTERM)
    assert not is_free(root)
    assert [line(step), line(step)] == ["switched", "interrupted"]
    session.wait(PATIENCE)
    assert is_free(root)


def test_a_node_that_falls_silent_is_lost(root: Path, programs: Programs) -> None:
    script = "import sys; from kit_engine import cli, session; session.SILENCE_SECONDS = 1.0; cli.main(sys.argv[1:])"
    asked = json.dumps({"who": "ada@laptop"})
    session = programs.start("-c", script, "--root", str(root), "session", "--json", "--request", asked)
    take_lock(session)
    step = programs.step(root, told(session)["token"])
    beats = cast("IO[str]", session.stdin)
    for _ in range(4):
        time.sleep(0.5)
        beats.write(".")
        beats.flush()
    assert session.poll() is None
    assert line(step) == "interrupted"
    session.wait(PATIENCE)


def test_a_wrong_token_is_refused(root: Path, programs: Programs) -> None:
    session = programs.session(root)
    token = told(session)["token"]
    with pytest.raises(EngineError) as refused, lock.held(root, "a step", "eve@desk", session="x" * len(token)):
        pass
    assert refused.value.code == "lock_lost"
    session.communicate("\0", timeout=PATIENCE)
    with pytest.raises(EngineError) as late, lock.held(root, "a step", "ada@laptop", session=token):
        pass
    assert late.value.code == "lock_lost"


def test_signals_are_taken_for_a_verb_only() -> None:
    before = [signal.getsignal(number) for number in signals.ENDING]
    with signals.taken(), pytest.raises(signals.Interrupted):
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in signals.ENDING] == before


def test_a_deferred_section_that_fails_ends_by_its_own_error() -> None:
    def fail() -> None:
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            raise EngineError("nginx", "It is broken.", "mend it")

    with signals.taken():
        with pytest.raises(EngineError):
            fail()
        with signals.deferred():
            assert not signals.pending()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["release", "--request", "{}"], "locked"),
        (["images", "--request", '{"mode": "take"}'], "locked"),
        (["install-certificate", "--request", "{}"], "locked"),
        (["facts", "--request", "{}"], None),
    ],
)
def test_what_changes_the_host_wants_the_lock(
    root: Path, programs: Programs, capsys: pytest.CaptureFixture[str], words: list[str], code: str | None
) -> None:
    programs.holder(root)
    # What needs none may fail at its request: it was not refused.
    with suppress(KeyError, TypeError):
        cli.main(["--root", str(root), words[0], "--json", *words[1:]])
    out = capsys.readouterr().out
    assert (json.loads(out)["code"] if code else "locked" not in out) == (code or True)
