"""The request id: from nginx, into the answer and into the logs."""

import json
import logging
import logging.config
import re

import pytest

from config.logs import logging_config


@pytest.mark.parametrize("given", ["0123456789abcdef0123456789abcdef", "01890a5d-ac96-774b-bcce-b302099a8057"])
def test_a_well_formed_id_is_kept(client, given: str) -> None:
    assert client.get("/health/live", headers={"X-Request-ID": given})["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "short", "x" * 65, "12345678\t9", "<script>alert(1)</script>", "12345678 9"])
def test_another_one_is_replaced(client, given: str) -> None:
    answer = client.get("/health/live", headers={"X-Request-ID": given})["X-Request-ID"]
    assert answer != given
    assert len(answer) == 32


def test_two_requests_get_two_ids(client) -> None:
    assert client.get("/health/live")["X-Request-ID"] != client.get("/health/live")["X-Request-ID"]


def test_an_error_page_carries_it_too(client) -> None:
    answer = client.get("/nothing-here", headers={"X-Request-ID": "0123456789abcdef"})
    assert (answer.status_code, answer["X-Request-ID"]) == (404, "0123456789abcdef")


def test_structured_lines_are_json_with_the_id(client, tmp_path) -> None:
    config = logging_config(level="INFO", directory=tmp_path, structured=True)
    config["root"]["handlers"] = ["file"]
    before = logging.root.handlers[:], logging.root.level
    logging.config.dictConfig(config)
    try:
        client.get("/", headers={"X-Request-ID": "0123456789abcdef"})
        client.get("/nothing", headers={"X-Request-ID": "fedcba9876543210"})
        client.get("/health/live")
        try:
            raise ValueError("with\na line end")
        except ValueError:
            logging.getLogger("x").exception("outside a request")
    finally:
        for handler in set(logging.root.handlers) - set(before[0]):
            handler.close()
        logging.root.handlers, logging.root.level = before
    lines = [json.loads(line) for line in (tmp_path / "app.log").read_text().splitlines()]
    request, unfound, warning, error = lines  # the probe leaves no line
    # Django's own line about it is written after all middleware.
    assert (unfound["request_id"], warning["request_id"]) == ("fedcba9876543210",) * 2
    assert (warning["logger"], warning["level"]) == ("django.request", "WARNING")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", request["time"])
    assert request["request_id"] == "0123456789abcdef"
    assert (request["method"], request["path"], request["status"], request["level"]) == ("GET", "/", 200, "INFO")
    assert error["request_id"] == "-"
    assert "with\na line end" in error["exc_info"]
