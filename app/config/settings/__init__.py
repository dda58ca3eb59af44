"""The loader: DJANGO_ENV picks the settings module. There is no default, so no host runs the wrong one by accident."""

from config import env

ENVIRONMENTS = ("local", "development", "production")

match env.choice("DJANGO_ENV", ENVIRONMENTS):
    case "local":
        # Settings are names of a module: each layer hands on all of the one below it.
        from config.settings.local import *  # noqa: F403
    case "development":
        from config.settings.dev import *  # noqa: F403
    case "production":
        from config.settings.prod import *  # noqa: F403
