"""/api/templates/ and /api/images/."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from campaigns.models import Contact, MessageTemplate

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16


def body(**changes: str) -> dict[str, str]:
    return {"name": "News", "subject": "Hi", "text_body": "Text", "html_body": ""} | changes


def test_an_editor_writes_and_previews_a_template(client_with) -> None:
    editor = client_with("editor")
    made = editor.post(
        "/api/templates/", body(subject="Hi {{first_name}}", html_body="<b>{{ first_name }}</b> {{ unsubscribe_url }}")
    )
    assert made.status_code == 201
    contact = Contact.objects.create(email="eve@example.com", first_name="<script>alert(1)</script>")
    seen = editor.post(f"/api/templates/{made.json()['id']}/preview/", {"contact": contact.pk}).json()
    assert seen["subject"] == "Hi <script>alert(1)</script>"
    assert "<script>" not in seen["html_body"]
    assert "&lt;script&gt;" in seen["html_body"]
    assert "http://localhost:8000/unsubscribe/" in seen["html_body"]


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"text_body": "{{ settings.SECRET_KEY }}"}, "text_body", "Unknown placeholder: settings.SECRET_KEY"),
        ({"html_body": "{{ first_name"}, "html_body", "not closed"),
        ({"subject": "one\ntwo"}, "subject", "one line"),
    ],
)
def test_a_bad_template_is_refused_when_saved(client_with, changes, field: str, message: str) -> None:
    answer = client_with("editor").post("/api/templates/", body(**changes))
    assert answer.status_code == 400
    assert message in str(answer.json()[field])


def test_djangos_tags_are_plain_text(client_with) -> None:
    editor = client_with("editor")
    made = editor.post("/api/templates/", body(text_body="{% debug %} {% include 'x' %}"))
    contact = Contact.objects.create(email="eve@example.com")
    seen = editor.post(f"/api/templates/{made.json()['id']}/preview/", {"contact": contact.pk}).json()
    assert seen["text_body"] == "{% debug %} {% include 'x' %}"


def test_a_viewer_previews_but_does_not_write(client_with) -> None:
    template = MessageTemplate.objects.create(**body())
    contact = Contact.objects.create(email="eve@example.com")
    viewer = client_with("viewer")
    assert viewer.post(f"/api/templates/{template.pk}/preview/", {"contact": contact.pk}).status_code == 200
    assert viewer.patch(f"/api/templates/{template.pk}/", {"subject": "x"}).status_code == 403


def test_a_template_in_use_is_kept(client_with, draft) -> None:
    campaign = draft()
    assert client_with("editor").delete(f"/api/templates/{campaign.template_id}/").status_code == 409


def upload(client, name: str, content: bytes):
    return client.post("/api/images/", {"name": name, "file": SimpleUploadedFile(name, content)}, format="multipart")


def test_an_image_is_stored_under_a_name_of_its_own_and_served(client_with, client) -> None:
    made = upload(client_with("editor"), "logo.PNG", PNG)
    assert made.status_code == 201
    path = made.json()["file"].removeprefix("http://testserver")
    assert "logo" not in path
    assert b"".join(client.get(path).streaming_content) == PNG


@pytest.mark.parametrize(
    ("name", "content"),
    [("page.html", b"<html>"), ("fake.png", b"<script>"), ("big.png", PNG + b"\0" * 2 * 1024 * 1024)],
)
def test_what_is_no_small_image_is_refused(client_with, name: str, content: bytes) -> None:
    assert upload(client_with("editor"), name, content).status_code == 400


def test_a_viewer_uploads_nothing(client_with) -> None:
    assert upload(client_with("viewer"), "logo.png", PNG).status_code == 403
