"""The token endpoints and /api/me/."""

import jwt
import pytest
from django.conf import settings as django_settings
from rest_framework.test import APIClient

from accounts.models import User

CREDENTIALS = {"username": "viewer", "password": "a-long-test-password"}


@pytest.fixture
def tokens(user_with) -> dict[str, str]:
    user_with("viewer")
    answer = APIClient().post("/api/token/", CREDENTIALS)
    assert answer.status_code == 200
    return answer.json()


def bearer(access: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {access}")
    return client


def test_login_gives_a_token_signed_with_its_own_key(tokens) -> None:
    jwt.decode(tokens["access"], django_settings.JWT_SIGNING_KEY, algorithms=["HS256"])
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(tokens["access"], django_settings.SECRET_KEY, algorithms=["HS256"])


def test_me_tells_name_and_roles(tokens) -> None:
    answer = bearer(tokens["access"]).get("/api/me/")
    assert answer.status_code == 200
    assert (answer.json()["username"], answer.json()["roles"]) == ("viewer", ["viewer"])


@pytest.mark.django_db
def test_me_refuses_strangers() -> None:
    assert APIClient().get("/api/me/").status_code == 401


@pytest.mark.django_db
def test_a_wrong_password_is_refused(user_with) -> None:
    user_with("viewer")
    assert APIClient().post("/api/token/", CREDENTIALS | {"password": "wrong"}).status_code == 401


def test_a_refresh_token_works_once(tokens) -> None:
    first = APIClient().post("/api/token/refresh/", {"refresh": tokens["refresh"]})
    again = APIClient().post("/api/token/refresh/", {"refresh": tokens["refresh"]})
    rotated = APIClient().post("/api/token/refresh/", {"refresh": first.json()["refresh"]})
    assert (first.status_code, again.status_code, rotated.status_code) == (200, 401, 200)


def test_a_blacklisted_token_is_refused(tokens) -> None:
    assert APIClient().post("/api/token/blacklist/", {"refresh": tokens["refresh"]}).status_code == 200
    assert APIClient().post("/api/token/refresh/", {"refresh": tokens["refresh"]}).status_code == 401


def test_a_new_password_ends_the_old_tokens(tokens) -> None:
    user = User.objects.get(username="viewer")
    user.set_password("another-long-password")
    user.save()
    assert bearer(tokens["access"]).get("/api/me/").status_code == 401


@pytest.mark.django_db
def test_the_eleventh_call_in_a_minute_is_refused() -> None:
    client = APIClient()
    codes = [client.post("/api/token/", CREDENTIALS).status_code for _ in range(10)]
    assert codes == [401] * 10
    # Another token endpoint does not give a second allowance.
    assert client.post("/api/token/refresh/", {"refresh": "x"}).status_code == 429
    assert client.post("/api/token/", CREDENTIALS, REMOTE_ADDR="192.0.2.7").status_code == 401


@pytest.mark.django_db
def test_a_forged_forwarding_header_gives_no_second_allowance() -> None:
    client = APIClient()
    codes = [
        client.post("/api/token/", CREDENTIALS, HTTP_X_FORWARDED_FOR=f"192.0.2.{n}").status_code for n in range(11)
    ]
    assert codes[-1] == 429


@pytest.mark.django_db
def test_login_still_works_while_redis_is_away(user_with, settings) -> None:
    settings.CACHES = {
        "default": {
            "BACKEND": "config.cache.TolerantRedisCache",
            "LOCATION": "redis://127.0.0.1:1/0",
        }
    }
    user_with("viewer")
    assert APIClient().post("/api/token/", CREDENTIALS).status_code == 200


@pytest.mark.parametrize("end", ["deleted", "inactive", "new password"])
def test_a_refresh_token_ends_with_its_user(tokens, end: str) -> None:
    user = User.objects.get(username="viewer")
    if end == "deleted":
        user.delete()
    elif end == "inactive":
        User.objects.update(is_active=False)
    else:
        user.set_password("another-long-password")
        user.save()
    answer = APIClient().post("/api/token/refresh/", {"refresh": tokens["refresh"]})
    assert answer.status_code == 401
