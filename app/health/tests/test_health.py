"""GET /health/live and /health/ready."""

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder


def test_live_touches_no_database(client, django_assert_num_queries_none) -> None:
    answer = client.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.fixture
def django_assert_num_queries_none(django_db_blocker):
    """Any query raises: pytest-django blocks the database where no fixture asks for it."""
    with django_db_blocker.block():
        yield


@pytest.mark.django_db
def test_ready_names_the_release(client, settings) -> None:
    settings.RELEASE_ID = "20260102T030405Z-abc1234"
    answer = client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "release": "20260102T030405Z-abc1234",
        "checks": {"database": "ok", "cache": "ok", "migrations": "ok"},
    }
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.django_db
def test_ready_fails_on_an_unapplied_migration_and_names_it_in_the_log(client, caplog) -> None:
    MigrationRecorder(connection).record_unapplied("campaigns", "0002_roles")
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["failed"] == ["migrations"]
    assert "campaigns.0002_roles" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_ready_fails_when_the_database_is_away_and_tells_strangers_no_host(client, monkeypatch) -> None:
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "PORT", 1)
    try:
        answer = client.get("/health/ready")
        live = client.get("/health/live")
    finally:
        connection.close()
    assert answer.status_code == 503
    assert answer.json()["failed"] == ["database", "migrations"]
    assert answer.json()["checks"]["cache"] == "ok"
    assert connection.settings_dict["HOST"] not in answer.content.decode()
    assert live.status_code == 200


@pytest.mark.django_db
def test_ready_fails_when_redis_is_away(client, settings) -> None:
    settings.CACHES = {
        "default": {
            "BACKEND": "config.cache.TolerantRedisCache",
            "LOCATION": "redis://127.0.0.1:1/0",
        }
    }
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["failed"]) == (503, ["cache"])


def test_only_reading_is_allowed(client) -> None:
    assert client.post("/health/live").status_code == 405
    assert client.post("/health/ready").status_code == 405


@pytest.mark.django_db
@pytest.mark.parametrize("error", [OperationalError("away"), InterfaceError("the connection is closed")])
def test_ready_takes_any_error_of_the_database_for_an_answer(client, monkeypatch, error: Exception) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr(connection, "cursor", broken)
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["failed"]) == (503, ["database", "migrations"])
