"""Contacts, lists, templates, campaigns, deliveries."""

import uuid
from pathlib import PurePath

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.files.base import File
from django.core.validators import FileExtensionValidator
from django.db import models
from django.db.models.functions import Lower

from campaigns.placeholders import check_placeholders

EMAIL_LENGTH = 254  # characters that SMTP takes; Django's own check of an address lets 320 pass


class Contact(models.Model):
    """A person who may get mail."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    email = models.EmailField(unique=True, max_length=EMAIL_LENGTH)
    first_name = models.CharField(max_length=100, blank=True)
    last_name = models.CharField(max_length=100, blank=True)
    unsubscribed_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("email",)
        constraints = (
            # Addresses are stored in lower case, so that an import finds the contact it means.
            models.CheckConstraint(condition=models.Q(email=Lower("email")), name="contact_email_is_lower_case"),
        )

    def __str__(self) -> str:
        return self.email

    def clean(self) -> None:
        self.email = self.email.lower()


class ContactList(models.Model):
    """A named set of contacts."""

    name = models.CharField(max_length=100, unique=True)
    contacts = models.ManyToManyField(Contact, related_name="lists", blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class MessageTemplate(models.Model):
    """A mail with placeholders (see campaigns/placeholders.py)."""

    name = models.CharField(max_length=100, unique=True)
    subject = models.CharField(max_length=200, validators=[check_placeholders])
    text_body = models.TextField(validators=[check_placeholders])
    html_body = models.TextField(blank=True, validators=[check_placeholders])
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if "\n" in self.subject or "\r" in self.subject:
            raise ValidationError({"subject": "A subject is one line."})


_IMAGE_BEGINNINGS = {
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".jpeg": (b"\xff\xd8\xff",),
    ".gif": (b"GIF87a", b"GIF89a"),
}
_IMAGE_LIMIT = 2 * 1024 * 1024  # bytes; mail readers load images over slow lines


def check_image(file: File) -> None:
    """Refuse a file whose first bytes are not those of its extension, or that is over 2 MB.

    Uploads are served from this site's own address, so a page dressed up as a picture would run as ours.
    """
    if file.size > _IMAGE_LIMIT:
        raise ValidationError(f"The image has {file.size} bytes; at most {_IMAGE_LIMIT} are allowed.")
    beginnings = _IMAGE_BEGINNINGS.get(PurePath(file.name or "").suffix.lower(), ())
    file.seek(0)
    start = file.read(8)
    file.seek(0)
    if not start.startswith(beginnings):
        raise ValidationError("The file's content is not that of the image its name says (png, jpg or gif).")


def image_path(_image: "TemplateImage", filename: str) -> str:
    """Store under a name that nobody can guess and that cannot clash."""
    return f"images/{uuid.uuid4().hex}{PurePath(filename).suffix.lower()}"


class TemplateImage(models.Model):
    """A picture for HTML mails, reachable by everybody who has its address."""

    name = models.CharField(max_length=100, unique=True)
    file = models.FileField(
        upload_to=image_path,
        validators=[FileExtensionValidator(["png", "jpg", "jpeg", "gif"]), check_image],
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Campaign(models.Model):
    """One mail to one list, at one time."""

    class Status(models.TextChoices):
        """draft → scheduled → sending → sent; cancelled from each but sent."""

        DRAFT = "draft"
        SCHEDULED = "scheduled"
        SENDING = "sending"
        SENT = "sent"
        CANCELLED = "cancelled"

    name = models.CharField(max_length=100)
    contact_list = models.ForeignKey(ContactList, on_delete=models.PROTECT, related_name="campaigns")
    template = models.ForeignKey(MessageTemplate, on_delete=models.PROTECT, related_name="campaigns")
    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT, editable=False)
    scheduled_at = models.DateTimeField(null=True, blank=True, editable=False)
    started_at = models.DateTimeField(null=True, blank=True, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True, editable=False)
    # The template as it was at the start: an edit must not change the second half of a campaign.
    subject = models.CharField(max_length=200, blank=True, editable=False)
    text_body = models.TextField(blank=True, editable=False)
    html_body = models.TextField(blank=True, editable=False)
    # When send_due shall queue a batch if until then nobody has moved it on; see campaigns/services/sending.py.
    next_batch_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-created_at",)
        permissions = (("send_campaign", "Can schedule, send and cancel campaigns"),)
        constraints = (
            models.CheckConstraint(
                condition=~models.Q(status="scheduled") | models.Q(scheduled_at__isnull=False),
                name="campaign_scheduled_has_a_time",
            ),
        )
        indexes = (
            models.Index(fields=("scheduled_at",), condition=models.Q(status="scheduled"), name="campaign_due_idx"),
            models.Index(fields=("next_batch_at",), condition=models.Q(status="sending"), name="campaign_stalled_idx"),
        )

    def __str__(self) -> str:
        return self.name


class Delivery(models.Model):
    """One mail to one contact. Its id is also its Message-ID, so a mail sent twice is recognisable as one."""

    class Status(models.TextChoices):
        """pending → sending → sent, failed, or back to pending; skipped when the contact left meanwhile."""

        PENDING = "pending"
        SENDING = "sending"
        SENT = "sent"
        FAILED = "failed"
        SKIPPED = "skipped"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="deliveries")
    contact = models.ForeignKey(Contact, on_delete=models.SET_NULL, null=True, related_name="deliveries")
    email = models.EmailField(max_length=EMAIL_LENGTH)
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="SMTP transactions begun")
    error = models.TextField(blank=True)
    next_attempt_at = models.DateTimeField()
    claimed_by = models.CharField(max_length=64, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("campaign", "email")
        verbose_name_plural = "deliveries"
        constraints = (
            models.UniqueConstraint(fields=("campaign", "contact"), name="delivery_once_per_contact"),
            models.UniqueConstraint(fields=("campaign", "email"), name="delivery_once_per_address"),
        )
        indexes = (
            models.Index(
                fields=("campaign", "next_attempt_at"),
                condition=models.Q(status__in=("pending", "sending")),
                name="delivery_open_idx",
            ),
        )

    def __str__(self) -> str:
        return f"{self.email} ({self.status})"
