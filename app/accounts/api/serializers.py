"""Shapes of the accounts API."""

from typing import Any

from rest_framework import serializers
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.serializers import TokenRefreshSerializer

from accounts.models import User
from accounts.selectors import roles_of


class MeSerializer(serializers.ModelSerializer):
    """The signed-in user."""

    roles = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = ("id", "username", "email", "first_name", "last_name", "roles")

    def get_roles(self, user: User) -> list[str]:
        """Names of the user's roles."""
        return roles_of(user)


class RefreshSerializer(TokenRefreshSerializer):
    """A refresh token, judged as strictly as an access token: it ends with its user or the user's password."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, str]:
        """Refuse the token of a user who is gone, inactive, or has a new password; simplejwt looks at the second only.

        Raises:
            AuthenticationFailed: the token's user is no longer the one it was given to.
        """
        JWTAuthentication().get_user(self.token_class(attrs["refresh"]))
        return super().validate(attrs)
