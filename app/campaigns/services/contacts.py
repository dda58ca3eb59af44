"""Writes on contacts and lists."""

import csv
import io
from dataclasses import dataclass, field

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.utils import timezone

from campaigns.models import EMAIL_LENGTH, Contact, ContactList

COLUMNS = ("email", "first_name", "last_name")
ROW_LIMIT = 50_000


@dataclass(frozen=True)
class RowError:
    """Why a row was left out. Rows are counted as a spreadsheet counts them: the heading is row 1."""

    row: int
    error: str


@dataclass
class ImportResult:
    """What an import did: contacts made, contacts that were there already, rows left out."""

    created: int = 0
    existing: int = 0
    errors: list[RowError] = field(default_factory=list)


def _heading(names: list[str] | None) -> list[str]:
    heading = [name.strip().lower() for name in names or []]
    if "email" not in heading:
        raise ValidationError(f"The first row must name the columns, email among them: {', '.join(COLUMNS)}.")
    if unknown := [name for name in heading if name not in COLUMNS]:
        raise ValidationError(f"Unknown column: {', '.join(unknown)}. Known are {', '.join(COLUMNS)}.")
    if len(set(heading)) < len(heading):
        raise ValidationError("A column is named twice in the first row.")
    return heading


def _row_problem(values: dict[str, str], seen: dict[str, int]) -> str | None:
    address = values["email"]
    try:
        validate_email(address)
    except ValidationError:
        return f"{address!r} is not an email address." if address else "The email address is missing."
    if len(address) > EMAIL_LENGTH:
        return f"The email address is longer than {EMAIL_LENGTH} characters."
    if address in seen:
        return f"{address} stands in row {seen[address]} already."
    for column in ("first_name", "last_name"):
        if len(values.get(column, "")) > 100:
            return f"{column} is longer than 100 characters."
    return None


@transaction.atomic
def import_contacts(*, contact_list: ContactList, content: bytes) -> ImportResult:
    """Read contacts from CSV into a list. Good rows are taken, bad ones reported.

    A contact that exists gets the names of the columns that the file has; one who has unsubscribed stays so.

    Args:
        contact_list: gets all contacts of the good rows.
        content: the file, UTF-8, comma or semicolon between columns, first row naming them.

    Returns:
        Counts, and an error per bad row.

    Raises:
        ValidationError: the file as a whole cannot be read; nothing was changed.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValidationError(f"The file is not UTF-8 (byte {error.start}). Save it as CSV UTF-8.") from error
    if "\x00" in text:
        raise ValidationError("The file holds zero bytes, so it is no text. Save it as CSV UTF-8.")
    first_line = text.split("\n", 1)[0]
    # newline="" lets the csv module see line ends inside quotes as they are.
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=";" if first_line.count(";") > first_line.count(",") else ",",
        strict=True,
    )
    result = ImportResult()
    good: dict[str, Contact] = {}
    seen: dict[str, int] = {}
    try:
        heading = _heading(next(reader, None))
        for number, cells in enumerate(reader, start=2):
            if number > ROW_LIMIT + 1:
                raise ValidationError(f"The file has more than {ROW_LIMIT} rows. Split it.")
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(heading):
                result.errors.append(RowError(number, f"{len(cells)} columns instead of {len(heading)}."))
                continue
            values = dict(zip(heading, (cell.strip() for cell in cells), strict=True))
            values["email"] = values["email"].lower()
            if problem := _row_problem(values, seen):
                result.errors.append(RowError(number, problem))
                continue
            seen[values["email"]] = number
            good[values["email"]] = Contact(**values)
    except csv.Error as error:
        raise ValidationError(f"The file is no CSV at line {reader.line_num}: {error}.") from error

    # One import at a time into a list, and always in the same order: two at once would wait for each other's rows.
    ContactList.objects.select_for_update(no_key=True).get(pk=contact_list.pk)
    result.existing = Contact.objects.filter(email__in=good).count()
    result.created = len(good) - result.existing
    names = [column for column in heading if column != "email"]
    Contact.objects.bulk_create(
        sorted(good.values(), key=lambda contact: contact.email),
        batch_size=1000,
        update_conflicts=bool(names),
        ignore_conflicts=not names,
        update_fields=names or None,
        unique_fields=["email"] if names else None,
    )
    contact_list.contacts.add(*Contact.objects.filter(email__in=good).values_list("pk", flat=True))
    return result


def unsubscribe_contact(*, contact: Contact) -> None:
    """End the contact's subscription to everything; a second time changes nothing."""
    Contact.objects.filter(pk=contact.pk, unsubscribed_at__isnull=True).update(unsubscribed_at=timezone.now())
