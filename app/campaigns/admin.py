"""Everything of this application in the admin."""

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.forms import ModelForm
from django.http import HttpRequest

from campaigns.exceptions import CampaignStateError
from campaigns.models import Campaign, Contact, ContactList, Delivery, MessageTemplate, TemplateImage
from campaigns.services.campaigns import change_draft


@admin.register(Contact)
class ContactAdmin(admin.ModelAdmin):
    """Contacts."""

    list_display = ("email", "first_name", "last_name", "unsubscribed_at", "created_at")
    list_filter = ("lists", ("unsubscribed_at", admin.EmptyFieldListFilter))
    search_fields = ("email", "first_name", "last_name")
    readonly_fields = ("uuid", "created_at")


@admin.register(ContactList)
class ContactListAdmin(admin.ModelAdmin):
    """Lists."""

    list_display = ("name", "created_at")
    search_fields = ("name",)
    autocomplete_fields = ("contacts",)


@admin.register(MessageTemplate)
class MessageTemplateAdmin(admin.ModelAdmin):
    """Templates."""

    list_display = ("name", "subject", "updated_at")
    search_fields = ("name", "subject")


@admin.register(TemplateImage)
class TemplateImageAdmin(admin.ModelAdmin):
    """Images."""

    list_display = ("name", "file", "created_at")
    search_fields = ("name",)


@admin.register(Campaign)
class CampaignAdmin(admin.ModelAdmin):
    """Campaigns. States change through the API only, which checks them; a campaign that is no draft is read-only."""

    list_display = ("name", "status", "contact_list", "template", "scheduled_at", "finished_at")
    list_filter = ("status",)
    search_fields = ("name",)
    readonly_fields = (
        "status",
        "scheduled_at",
        "started_at",
        "finished_at",
        "next_batch_at",
        "subject",
        "text_body",
        "html_body",
        "created_by",
        "created_at",
    )

    def save_model(self, request: HttpRequest, obj: Campaign, form: ModelForm, change: bool) -> None:
        """Save a new draft, or the changed fields of one, locked: another process may have scheduled it meanwhile."""
        if not change:
            obj.created_by = request.user
            super().save_model(request, obj, form, change)
            return
        try:
            change_draft(campaign=obj, **{name: form.cleaned_data[name] for name in form.changed_data})
        except CampaignStateError as error:
            raise PermissionDenied(str(error)) from error

    def has_change_permission(self, request: HttpRequest, obj: Campaign | None = None) -> bool:
        editable = obj is None or obj.status == Campaign.Status.DRAFT
        return editable and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Campaign | None = None) -> bool:
        running = obj is not None and obj.status in (Campaign.Status.SCHEDULED, Campaign.Status.SENDING)
        return not running and super().has_delete_permission(request, obj)


@admin.register(Delivery)
class DeliveryAdmin(admin.ModelAdmin):
    """Deliveries: a record of what happened, so nobody edits it."""

    list_display = ("email", "campaign", "status", "attempts", "sent_at", "error")
    list_filter = ("status", "campaign")
    search_fields = ("email",)
    list_select_related = ("campaign",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Delivery | None = None) -> bool:
        return False
