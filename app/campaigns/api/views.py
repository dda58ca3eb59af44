"""Views of the campaigns API."""

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from campaigns import tasks
from campaigns.api import serializers as shapes
from campaigns.models import Campaign, Contact, ContactList, Delivery, MessageTemplate, TemplateImage
from campaigns.selectors import campaigns, contact_lists, message_templates
from campaigns.services.campaigns import cancel_campaign, delete_draft, schedule_campaign
from campaigns.services.contacts import import_contacts
from campaigns.services.messages import preview


class ContactViewSet(viewsets.ModelViewSet):
    """Contacts."""

    queryset = Contact.objects.prefetch_related("lists")
    serializer_class = shapes.ContactSerializer


class ContactListViewSet(viewsets.ModelViewSet):
    """Lists, and who is on them."""

    queryset = ContactList.objects.all()
    serializer_class = shapes.ContactListSerializer
    action_permissions = {
        "import_csv": "campaigns.add_contact",
        "add": "campaigns.change_contactlist",
        "remove": "campaigns.change_contactlist",
    }

    def get_queryset(self) -> QuerySet[ContactList]:
        return contact_lists()

    @extend_schema(request=shapes.ImportSerializer, responses=shapes.ImportResultSerializer)
    @action(detail=True, methods=["post"], url_path="import", parser_classes=[MultiPartParser])
    def import_csv(self, request: Request, pk: str) -> Response:
        """Read contacts from a CSV file into the list; bad rows are reported and left out."""
        upload = shapes.ImportSerializer(data=request.data)
        upload.is_valid(raise_exception=True)
        result = import_contacts(contact_list=self.get_object(), content=upload.validated_data["file"].read())
        return Response(shapes.ImportResultSerializer(result).data)

    @extend_schema(request=shapes.MembersSerializer, responses=shapes.ContactListSerializer)
    @action(detail=True, methods=["post"])
    def add(self, request: Request, pk: str) -> Response:
        """Put contacts on the list."""
        members = shapes.MembersSerializer(data=request.data)
        members.is_valid(raise_exception=True)
        self.get_object().contacts.add(*members.validated_data["contacts"])
        return Response(shapes.ContactListSerializer(self.get_object()).data)

    @extend_schema(request=shapes.MembersSerializer, responses=shapes.ContactListSerializer)
    @action(detail=True, methods=["post"])
    def remove(self, request: Request, pk: str) -> Response:
        """Take contacts off the list; the contacts stay."""
        members = shapes.MembersSerializer(data=request.data)
        members.is_valid(raise_exception=True)
        self.get_object().contacts.remove(*members.validated_data["contacts"])
        return Response(shapes.ContactListSerializer(self.get_object()).data)


class MessageTemplateViewSet(viewsets.ModelViewSet):
    """Templates."""

    queryset = MessageTemplate.objects.all()
    serializer_class = shapes.MessageTemplateSerializer
    action_permissions = {"preview": "campaigns.view_messagetemplate"}

    def get_queryset(self) -> QuerySet[MessageTemplate]:
        return message_templates()

    @extend_schema(request=shapes.PreviewRequestSerializer, responses=shapes.PreviewSerializer)
    @action(detail=True, methods=["post"])
    def preview(self, request: Request, pk: str) -> Response:
        """Show the mail as one contact would get it."""
        wanted = shapes.PreviewRequestSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        filled = preview(template=self.get_object(), contact=wanted.validated_data["contact"])
        return Response(shapes.PreviewSerializer(filled).data)


class TemplateImageViewSet(
    mixins.CreateModelMixin,
    mixins.RetrieveModelMixin,
    mixins.DestroyModelMixin,
    mixins.ListModelMixin,
    viewsets.GenericViewSet,
):
    """Images for HTML mails. None is changed, since mails already sent show it."""

    queryset = TemplateImage.objects.all()
    serializer_class = shapes.TemplateImageSerializer
    parser_classes = (MultiPartParser,)


class CampaignViewSet(viewsets.ModelViewSet):
    """Campaigns: drafted by editors, sent by senders."""

    queryset = Campaign.objects.all()
    action_permissions = {
        "schedule": "campaigns.send_campaign",
        "send": "campaigns.send_campaign",
        "cancel": "campaigns.send_campaign",
        "deliveries": "campaigns.view_delivery",
    }

    def get_queryset(self) -> QuerySet[Campaign]:
        return campaigns()

    def get_serializer_class(self) -> type[BaseSerializer]:
        return shapes.CampaignSerializer if self.action == "list" else shapes.CampaignDetailSerializer

    def perform_create(self, serializer: BaseSerializer) -> None:
        serializer.save(created_by=self.request.user)

    def perform_destroy(self, instance: Campaign) -> None:
        delete_draft(campaign=instance)

    def _answer(self, campaign: Campaign) -> Response:
        # Read again: where tasks run at once, the campaign may be sent by now.
        return Response(shapes.CampaignDetailSerializer(campaigns().get(pk=campaign.pk)).data)

    @extend_schema(request=shapes.ScheduleSerializer, responses=shapes.CampaignDetailSerializer)
    @action(detail=True, methods=["post"])
    def schedule(self, request: Request, pk: str) -> Response:
        """Send the draft at a time to come."""
        wanted = shapes.ScheduleSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        return self._answer(schedule_campaign(campaign=self.get_object(), at=wanted.validated_data["scheduled_at"]))

    @extend_schema(request=None, responses={status.HTTP_202_ACCEPTED: shapes.CampaignDetailSerializer})
    @action(detail=True, methods=["post"])
    def send(self, request: Request, pk: str) -> Response:
        """Send the draft now, in the background."""
        campaign = schedule_campaign(campaign=self.get_object())
        # The schedule is committed. Should this task be lost, the next send_due finds the campaign due.
        tasks.send_due.enqueue()
        answer = self._answer(campaign)
        answer.status_code = status.HTTP_202_ACCEPTED
        return answer

    @extend_schema(request=None, responses=shapes.CampaignDetailSerializer)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """Stop the campaign; mails not yet begun are never sent."""
        return self._answer(cancel_campaign(campaign=self.get_object()))

    @extend_schema(responses=shapes.DeliverySerializer(many=True))
    @action(detail=True, methods=["get"])
    def deliveries(self, request: Request, pk: str) -> Response:
        """List what became of each mail."""
        page = self.paginate_queryset(Delivery.objects.filter(campaign=self.get_object()).order_by("email"))
        return self.get_paginated_response(shapes.DeliverySerializer(page, many=True).data)
