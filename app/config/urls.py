"""All addresses of the site."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView

from campaigns.views import unsubscribe
from config.views import ApiDocsView, favicon, landing, media

admin.site.site_header = "Email Campaign"
admin.site.site_title = "Email Campaign"

urlpatterns = [
    path("", landing, name="landing"),
    path("favicon.ico", favicon),
    path("admin/", admin.site.urls),
    path("health/", include("health.urls")),
    path("unsubscribe/<str:token>/", unsubscribe, name="unsubscribe"),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", ApiDocsView.as_view(url_name="schema", template_name="api_docs.html"), name="api-docs"),
    path("api/", include("accounts.api.urls")),
    path("api/", include("campaigns.api.urls")),
]

if settings.ENVIRONMENT != "production":
    # nginx serves uploads in production; nothing else stands before the process elsewhere.
    urlpatterns.append(path("media/<path:path>", media))
