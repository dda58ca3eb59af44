"""The user."""

from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    """A person who signs in. A model of its own from the first migration on, since it cannot be swapped later."""

    email = models.EmailField("email address", unique=True)

    class Meta(AbstractUser.Meta):
        ordering = ("username",)
