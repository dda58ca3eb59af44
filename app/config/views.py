"""The landing page, the API docs page, and uploads where no nginx serves them."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.views.decorators.http import require_safe
from django.views.static import serve
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.request import Request
from rest_framework.response import Response


@require_safe
def landing(request: HttpRequest) -> HttpResponse:
    """Name the service and link its doors. In production version and environment stay unsaid."""
    told = settings.ENVIRONMENT != "production"
    return render(
        request,
        "landing.html",
        {
            "version": settings.VERSION if told else "",
            "environment": settings.ENVIRONMENT if told else "",
            "release": settings.RELEASE_ID if told else "",
        },
    )


class ApiDocsView(SpectacularSwaggerSplitView):
    """Swagger's page. Its styles hold a few icons as data: addresses, so it asks for that and nothing more.

    nginx leaves a policy that the app sends as it is, and sets the strict one on all other pages.
    """

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        response: Response = super().get(request, *args, **kwargs)
        response["Content-Security-Policy"] = (
            "default-src 'self'; img-src 'self' data:; base-uri 'self'; form-action 'self'; frame-ancestors 'none'; "
            "object-src 'none'"
        )
        return response


@require_safe
def favicon(request: HttpRequest) -> HttpResponse:
    """Lead browsers that ask at the old place to the icon."""
    return redirect(static("site/icon.svg"))


@require_safe
def media(request: HttpRequest, path: str) -> HttpResponseBase:
    """Send an uploaded file."""
    return serve(request, path, document_root=str(settings.MEDIA_ROOT))
