"""Django's own applications, adjusted."""

from django.contrib.staticfiles.apps import StaticFilesConfig


class StaticFiles(StaticFilesConfig):
    """Static files, without what this site never serves: it halves the folder that every image carries."""

    ignore_patterns = [
        *StaticFilesConfig.ignore_patterns,
        "redoc",  # the API docs page is Swagger's
        "rest_framework",  # the API answers in JSON only
        "*.map",  # for debugging other people's minified scripts
    ]
