"""Writes."""

from collections.abc import Iterable

from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import transaction

from accounts.models import User
from accounts.roles import ROLES


@transaction.atomic
def assign_roles(*, user: User, roles: Iterable[str]) -> None:
    """Give the user exactly these roles; other groups stay as they are.

    Raises:
        ValidationError: one of them is no role.
    """
    wanted = set(roles)
    if unknown := wanted - set(ROLES):
        raise ValidationError(f"No such role: {', '.join(sorted(unknown))}. Roles are {', '.join(ROLES)}.")
    user.groups.remove(*Group.objects.filter(name__in=set(ROLES) - wanted))
    user.groups.add(*Group.objects.filter(name__in=wanted))
