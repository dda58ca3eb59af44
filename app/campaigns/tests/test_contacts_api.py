"""/api/contacts/ and /api/lists/."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection

from campaigns.models import Contact, ContactList
from campaigns.services.contacts import import_contacts, unsubscribe_contact


@pytest.fixture
def readers(db) -> ContactList:
    return ContactList.objects.create(name="Readers")


def send_csv(client, contact_list: ContactList, content: str | bytes):
    data = content if isinstance(content, bytes) else content.encode()
    return client.post(
        f"/api/lists/{contact_list.pk}/import/", {"file": SimpleUploadedFile("c.csv", data)}, format="multipart"
    )


def test_an_editor_makes_changes_and_deletes_a_contact(client_with) -> None:
    editor = client_with("editor")
    made = editor.post("/api/contacts/", {"email": "Ada@Example.com", "first_name": "Ada"})
    assert (made.status_code, made.json()["email"]) == (201, "ada@example.com")
    address = f"/api/contacts/{made.json()['id']}/"
    assert editor.patch(address, {"first_name": "A."}).json()["first_name"] == "A."
    assert editor.get("/api/contacts/").json()["count"] == 1
    assert editor.delete(address).status_code == 204


def test_an_address_is_taken_once_in_any_case(client_with) -> None:
    editor = client_with("editor")
    Contact.objects.create(email="ada@example.com")
    answer = editor.post("/api/contacts/", {"email": "ADA@example.com"})
    assert answer.status_code == 400
    assert "email" in answer.json()


@pytest.mark.parametrize("role", ["viewer", "sender"])
def test_others_read_only(client_with, readers, role: str) -> None:
    client = client_with(role)
    assert client.get("/api/contacts/").status_code == 200
    assert client.post("/api/contacts/", {"email": "ada@example.com"}).status_code == 403
    assert send_csv(client, readers, "email\nada@example.com\n").status_code == 403
    assert client.post(f"/api/lists/{readers.pk}/add/", {"contacts": [1]}).status_code == 403


def test_a_user_without_a_role_sees_nothing(client_with) -> None:
    assert client_with().get("/api/contacts/").status_code == 403


def test_an_import_takes_good_rows_and_names_bad_ones(client_with, readers) -> None:
    Contact.objects.create(email="old@example.com", first_name="Old", last_name="Kept")
    answer = send_csv(
        client_with("editor"),
        readers,
        "Email,First_Name\n"
        'NEW@example.com,"Nóra, the first"\n'
        "not an address,X\n"
        "\n"
        "old@example.com,Older\n"
        "new@example.com,Again\n"
        "a@example.com,b,c\n"
        f"long@example.com,{'x' * 101}\n",
    )
    assert answer.status_code == 200
    assert answer.json() == {
        "created": 1,
        "existing": 1,
        "errors": [
            {"row": 3, "error": "'not an address' is not an email address."},
            {"row": 6, "error": "new@example.com stands in row 2 already."},
            {"row": 7, "error": "3 columns instead of 2."},
            {"row": 8, "error": "first_name is longer than 100 characters."},
        ],
    }
    assert list(readers.contacts.values_list("email", "first_name", "last_name")) == [
        ("new@example.com", "Nóra, the first", ""),
        ("old@example.com", "Older", "Kept"),
    ]


def test_semicolons_and_a_byte_order_mark_are_read(client_with, readers) -> None:
    answer = send_csv(client_with("editor"), readers, b"\xef\xbb\xbfemail;last_name\r\nada@example.com;Lovelace\r\n")
    assert answer.json() == {"created": 1, "existing": 0, "errors": []}


def test_an_import_brings_nobody_back_who_left(client_with, readers) -> None:
    gone = Contact.objects.create(email="gone@example.com")
    unsubscribe_contact(contact=gone)
    send_csv(client_with("editor"), readers, "email\ngone@example.com\n")
    gone.refresh_from_db()
    assert gone.unsubscribed_at is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name\nAda\n", "must name the columns"),
        ("email,phone\na@example.com,1\n", "Unknown column: phone"),
        ("email,email\na@example.com,b@example.com\n", "named twice"),
        ("email\n\xe4@example.com\n".encode("latin-1"), "not UTF-8 (byte 6)"),
        (b"email\n\x00\n", "zero bytes"),
        ('email\n"a@example.com\n', "no CSV at line"),
        (b"\xef\xbb\xbf", "must name the columns"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_changes_nothing(client_with, readers, content, message: str) -> None:
    answer = send_csv(client_with("editor"), readers, content)
    assert answer.status_code == 400
    assert message in str(answer.json())
    assert not Contact.objects.exists()


def test_lists_count_who_may_get_mail_and_members_come_and_go(client_with, readers) -> None:
    editor = client_with("editor")
    ada, ben = (Contact.objects.create(email=f"{name}@example.com") for name in ("ada", "ben"))
    unsubscribe_contact(contact=ben)
    address = f"/api/lists/{readers.pk}/"
    added = editor.post(f"{address}add/", {"contacts": [ada.pk, ben.pk]}).json()
    assert (added["contact_count"], added["subscribed_count"]) == (2, 1)
    removed = editor.post(f"{address}remove/", {"contacts": [ada.pk]}).json()
    assert (removed["contact_count"], removed["subscribed_count"]) == (1, 0)
    assert editor.post(f"{address}add/", {"contacts": [99999]}).status_code == 400
    assert editor.post("/api/lists/", {"name": "Readers"}).status_code == 400


def test_lists_come_in_the_order_of_their_names(client_with) -> None:
    for name in ("b", "c", "a"):
        ContactList.objects.create(name=name)
    listed = client_with("viewer").get("/api/lists/").json()["results"]
    assert [row["name"] for row in listed] == ["a", "b", "c"]


# 254 characters are what the column and SMTP take; Django's validator lets 320 pass.
TOO_LONG = f"{'a' * 64}@{'.'.join(['b' * 60] * 4)}.example.com"


def test_an_address_too_long_to_store_is_refused(client_with) -> None:
    answer = client_with("editor").post("/api/contacts/", {"email": TOO_LONG})
    assert answer.status_code == 400
    assert "254" in str(answer.json()["email"])


def test_an_import_leaves_out_an_address_too_long_to_store(client_with, readers) -> None:
    answer = send_csv(client_with("editor"), readers, f"email\n{TOO_LONG}\nada@example.com\n")
    assert answer.json() == {
        "created": 1,
        "existing": 0,
        "errors": [{"row": 2, "error": "The email address is longer than 254 characters."}],
    }


@pytest.mark.django_db(transaction=True)
def test_two_imports_of_the_same_people_at_once_both_succeed() -> None:
    addresses = [f"reader{number:05}@example.com" for number in range(5000)]
    together = threading.Barrier(2)

    def read(rows: list[str]) -> int:
        readers = ContactList.objects.create(name=rows[0])
        content = "email,first_name\n" + "".join(f"{address},New\n" for address in rows)
        together.wait()
        try:
            return len(import_contacts(contact_list=readers, content=content.encode()).errors)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(read, rows) for rows in (addresses, addresses[::-1])]
        assert [future.result() for future in done] == [0, 0]
    assert [readers.contacts.count() for readers in ContactList.objects.all()] == [5000, 5000]
