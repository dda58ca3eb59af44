"""Reads."""

from accounts.models import User
from accounts.roles import ROLES


def roles_of(user: User) -> list[str]:
    """Return the roles the user holds, in the order of ROLES; groups made by hand are no roles."""
    held = set(user.groups.values_list("name", flat=True))
    return [role for role in ROLES if role in held]
