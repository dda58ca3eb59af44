"""What all API views share."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import ProtectedError
from rest_framework import exceptions, serializers, status
from rest_framework.response import Response
from rest_framework.views import exception_handler as default_handler

from campaigns.exceptions import CampaignStateError


class Conflict(exceptions.APIException):
    """The request is well-formed, but the state of things forbids it."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Turn the services' own errors into answers: what the state of things forbids is 409, a bad value 400."""
    if isinstance(error, CampaignStateError):
        error = Conflict(str(error))
    elif isinstance(error, ProtectedError):
        users = sorted({item._meta.verbose_name_plural for item in error.protected_objects})
        error = Conflict(f"This is in use by {', '.join(str(name) for name in users)}, so it cannot be deleted.")
    elif isinstance(error, ValidationError):
        error = exceptions.ValidationError(serializers.as_serializer_error(error))
    return default_handler(error, context)
