"""Pages of the site, as browsers and strangers see them."""

import re
from pathlib import Path

import pytest
from django.contrib import admin
from django.urls import reverse

from campaigns import models

APP = Path(__file__).resolve().parents[2]


def test_the_landing_page_links_the_doors_and_names_version_and_environment(client, settings) -> None:
    settings.RELEASE_ID = "20260102T030405Z-abc1234"
    page = client.get("/").content.decode()
    for told in ('href="/admin/"', 'href="/api/docs/"', settings.VERSION, ">local<", "20260102T030405Z-abc1234"):
        assert told in page


def test_in_production_it_names_neither(client, settings) -> None:
    settings.ENVIRONMENT = "production"
    settings.RELEASE_ID = "20260102T030405Z-abc1234"
    page = client.get("/").content.decode()
    assert 'href="/admin/"' in page
    for untold in (settings.VERSION, "production", "20260102T030405Z-abc1234"):
        assert untold not in page


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/", "/api/docs/", "/admin/login/", "/unsubscribe/x/", "/nothing"])
def test_no_page_needs_more_than_a_strict_content_security_policy(client, path: str) -> None:
    page = client.get(path).content.decode()
    assert "<html" in page
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", page) == []
    assert [tag for tag in re.findall(r"<script[^>]*>", page) if "src=" not in tag] == []
    assert (
        re.findall(r"""(?:src|href)=["']?(?:https?:)?//[^"']*""", page.replace("https://www.djangoproject.com", ""))
        == []
    )


@pytest.mark.django_db
def test_the_docs_pages_script_comes_from_this_site(client) -> None:
    answer = client.get("/api/docs/?script=")
    assert answer["Content-Type"].startswith("application/javascript")
    assert "/api/schema/" in answer.content.decode()


@pytest.mark.django_db
def test_the_docs_page_alone_may_show_images_that_its_styles_hold(client) -> None:
    assert "img-src 'self' data:" in client.get("/api/docs/")["Content-Security-Policy"]
    for path in ("/", "/admin/login/", "/unsubscribe/x/"):
        assert "Content-Security-Policy" not in client.get(path)  # nginx sets the strict one


@pytest.mark.django_db
def test_the_schema_has_no_gaps(capsys) -> None:
    from django.core.management import call_command

    call_command("spectacular", validate=True, fail_on_warn=True)
    schema = capsys.readouterr().out
    for path in ("/api/token/", "/api/campaigns/{id}/send/", "/api/lists/{id}/import/"):
        assert f"  {path}:" in schema


def test_the_error_page_needs_nothing(client, monkeypatch) -> None:
    def broken(*_args, **_kwargs):
        raise RuntimeError("broken")

    monkeypatch.setattr("config.views.render", broken)
    client.raise_request_exception = False
    answer = client.get("/")
    assert answer.status_code == 500
    assert "Something went wrong" in answer.content.decode()


def test_every_model_of_ours_is_in_the_admin() -> None:
    ours = {model for model in vars(models).values() if isinstance(model, type) and model.__module__ == models.__name__}
    registered = set(admin.site._registry)
    assert {model for model in ours if hasattr(model, "_meta")} <= registered
    assert {model._meta.label for model in registered} >= {
        "accounts.User",
        "token_blacklist.OutstandingToken",
        "django_tasks_database.DBTaskResult",
    }


@pytest.mark.django_db
@pytest.mark.parametrize("model", list(admin.site._registry), ids=lambda model: model._meta.label)
def test_every_admin_page_opens(client, user_with, draft, model) -> None:
    campaign = draft()
    contact = campaign.contact_list.contacts.first()
    models.Delivery.objects.create(
        campaign=campaign, contact=contact, email=contact.email, next_attempt_at=campaign.created_at
    )
    client.force_login(user_with(is_staff=True, is_superuser=True))
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    assert client.get(reverse(f"{name}_changelist")).status_code == 200
    assert client.get(reverse(f"{name}_changelist"), {"q": "x"}).status_code == 200
    if first := model._base_manager.first():
        assert client.get(reverse(f"{name}_change", args=[first.pk])).status_code == 200
    assert client.get(reverse(f"{name}_add")).status_code in (200, 403)


def test_the_icon_is_found_at_the_old_place(client) -> None:
    assert client.get("/favicon.ico")["Location"] == "/static/site/icon.svg"
