"""Shapes of the campaigns API."""

from typing import Any

from django.core.files.uploadedfile import UploadedFile
from rest_framework import serializers
from rest_framework.validators import UniqueValidator

from campaigns.models import EMAIL_LENGTH, Campaign, Contact, ContactList, Delivery, MessageTemplate, TemplateImage
from campaigns.selectors import delivery_counts
from campaigns.services.campaigns import change_draft

IMPORT_LIMIT = 8 * 1024 * 1024  # bytes; below nginx's client_max_body_size of 10 MB in deploy.yml


class LowerCaseEmailField(serializers.EmailField):
    """An address in lower case, as it is stored, so that the check for uniqueness compares like with like."""

    def to_internal_value(self, data: Any) -> str:
        return super().to_internal_value(data).lower()


class ContactSerializer(serializers.ModelSerializer):
    """A contact."""

    email = LowerCaseEmailField(max_length=EMAIL_LENGTH, validators=[UniqueValidator(Contact.objects.all())])

    class Meta:
        model = Contact
        fields = ("id", "email", "first_name", "last_name", "lists", "unsubscribed_at", "created_at")
        read_only_fields = ("lists", "unsubscribed_at", "created_at")


class ContactListSerializer(serializers.ModelSerializer):
    """A list with its sizes."""

    contact_count = serializers.IntegerField(read_only=True, default=0)
    subscribed_count = serializers.IntegerField(read_only=True, default=0)

    class Meta:
        model = ContactList
        fields = ("id", "name", "contact_count", "subscribed_count", "created_at")


class MembersSerializer(serializers.Serializer):
    """Contacts to add to a list or take from it."""

    contacts = serializers.PrimaryKeyRelatedField(queryset=Contact.objects.all(), many=True, allow_empty=False)


class ImportSerializer(serializers.Serializer):
    """A CSV file."""

    file = serializers.FileField(help_text="CSV, UTF-8; the first row names the columns: email, first_name, last_name")

    def validate_file(self, file: UploadedFile) -> UploadedFile:
        """Refuse what would fill the process's memory."""
        if file.size is None or file.size > IMPORT_LIMIT:
            raise serializers.ValidationError(f"The file has {file.size} bytes; at most {IMPORT_LIMIT} are allowed.")
        return file


class RowErrorSerializer(serializers.Serializer):
    """Why a row was left out."""

    row = serializers.IntegerField(help_text="as a spreadsheet counts: the heading is row 1")
    error = serializers.CharField()


class ImportResultSerializer(serializers.Serializer):
    """What an import did."""

    created = serializers.IntegerField()
    existing = serializers.IntegerField()
    errors = RowErrorSerializer(many=True)


class MessageTemplateSerializer(serializers.ModelSerializer):
    """A template."""

    class Meta:
        model = MessageTemplate
        fields = ("id", "name", "subject", "text_body", "html_body", "created_at", "updated_at")

    def validate_subject(self, subject: str) -> str:
        """Keep a subject to one line: a header cannot have two."""
        if "\n" in subject or "\r" in subject:
            raise serializers.ValidationError("A subject is one line.")
        return subject


class PreviewRequestSerializer(serializers.Serializer):
    """For whom to preview a template."""

    contact = serializers.PrimaryKeyRelatedField(queryset=Contact.objects.all())


class PreviewSerializer(serializers.Serializer):
    """A template filled in."""

    subject = serializers.CharField()
    text_body = serializers.CharField()
    html_body = serializers.CharField()


class TemplateImageSerializer(serializers.ModelSerializer):
    """An image."""

    class Meta:
        model = TemplateImage
        fields = ("id", "name", "file", "created_at")


class CampaignSerializer(serializers.ModelSerializer):
    """A campaign; its state changes through actions of its own."""

    created_by = serializers.SlugRelatedField(slug_field="username", read_only=True)

    class Meta:
        model = Campaign
        fields = (
            "id",
            "name",
            "contact_list",
            "template",
            "status",
            "scheduled_at",
            "started_at",
            "finished_at",
            "created_by",
            "created_at",
        )
        read_only_fields = ("status", "scheduled_at", "started_at", "finished_at", "created_at")

    def update(self, instance: Campaign, validated_data: dict[str, Any]) -> Campaign:
        """Change a draft, and nothing else."""
        return change_draft(campaign=instance, **validated_data)


class CampaignDetailSerializer(CampaignSerializer):
    """A campaign with the number of its deliveries by status."""

    deliveries = serializers.SerializerMethodField()

    class Meta(CampaignSerializer.Meta):
        fields = (*CampaignSerializer.Meta.fields, "deliveries")

    def get_deliveries(self, campaign: Campaign) -> dict[str, int]:
        """Numbers by status."""
        return delivery_counts(campaign)


class ScheduleSerializer(serializers.Serializer):
    """When to send."""

    scheduled_at = serializers.DateTimeField()


class DeliverySerializer(serializers.ModelSerializer):
    """What became of one mail."""

    class Meta:
        model = Delivery
        fields = ("id", "contact", "email", "status", "attempts", "error", "next_attempt_at", "sent_at")
