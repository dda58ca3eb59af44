"""Which pieces travel in which call, what images are called on a host, and mistakes in how they shall come."""

from __future__ import annotations

import pytest
from kit_control import image_names, image_registry, image_transfer, inventory_checks
from kit_engine.image_transfer import Header, Layer

MB = 1 << 20
HEADER = Header((), {"sha256:a": Layer(17 * MB, 3), "sha256:b": Layer(5, 1)})


class TestPlan:
    """What is staged already is not sent again."""

    @pytest.mark.parametrize(
        ("staged", "expected"),
        [
            ({}, [("sha256:a", 0), ("sha256:a", 1), ("sha256:a", 2), ("sha256:b", 0)]),
            ({"sha256:a": [0, 2], "sha256:other": [1]}, [("sha256:a", 1), ("sha256:b", 0)]),
            ({"sha256:a": [0, 1, 2], "sha256:b": [0]}, []),
        ],
        ids=["nothing", "a part", "everything"],
    )
    def test_missing_pieces(self, staged: dict[str, list[int]], expected: list[tuple[str, int]]) -> None:
        assert image_transfer._missing(HEADER, staged) == expected

    def test_calls_stay_small_and_in_order(self) -> None:
        sizes = {"sha256:a": [8 * MB, 8 * MB, 8 * MB + 1], "sha256:b": [5]}
        missing = image_transfer._missing(HEADER, {})
        assert list(image_transfer._batches(missing, sizes)) == [missing[:2], missing[2:]]

    def test_a_piece_larger_than_a_call_travels_alone(self) -> None:
        assert list(image_transfer._batches([("a", 0), ("a", 1)], {"a": [99 * MB, 1]})) == [[("a", 0)], [("a", 1)]]

    def test_without_any_piece_there_is_one_call(self) -> None:
        assert list(image_transfer._batches([], {})) == [[]]


class TestNames:
    """References that hold on a host that reaches no registry."""

    DIGEST = "sha256:0123456789abcdef" + "0" * 48

    def test_a_digest_becomes_a_tag(self) -> None:
        bases = {"postgres": {"ref": f"mirror.example.com:5000/x/postgres@{self.DIGEST}"}}
        expected = {"postgres": "kit-base/postgres:registry-0123456789ab", "app": "site:release-1"}
        assert image_names.references(bases, {"ref": "site:release-1"}, "transfer") == expected

    def test_a_host_that_pulls_by_itself_keeps_the_digest(self) -> None:
        bases = {"postgres": {"ref": f"postgres@{self.DIGEST}"}}
        assert image_names.references(bases, {}, "build") == {"postgres": f"postgres@{self.DIGEST}"}

    def test_place_in_a_registry(self) -> None:
        assert image_registry.repository("r.example.com:5000/team/", "kit-base/redis:8") == (
            "r.example.com:5000/team/redis:8"
        )


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, ""),
        ({"delivery": "transfer"}, ""),
        ({"delivery": "registry", "registry": "r.example.com/team"}, ""),
        ({"delivery": "registry", "registry": "127.0.0.1:5000", "registry_user": "u", "registry_password": "p"}, ""),
        ({"delivery": "copy"}, "app_image_delivery is copy; write one of: build, transfer, registry"),
        ({"delivery": "registry"}, "app_image_registry is empty; write its host and path without a scheme"),
        ({"delivery": "registry", "registry": "https://r.example.com"}, "without a scheme"),
        ({"delivery": "registry", "registry": "r.example.com", "registry_user": "u"}, "belong together"),
    ],
)
def test_mistakes_in_the_delivery_are_told_with_their_place(inputs: dict[str, str], expected: str) -> None:
    names = ("delivery", "registry", "registry_user", "registry_password")
    problems = inventory_checks.delivery_problems({f"app_image_{name}": inputs.get(name, "") for name in names}, "prod")
    assert len(problems) == bool(expected)
    assert expected in "".join(problems)
