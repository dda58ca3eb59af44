"""Who may call what."""

from django.views import View
from rest_framework.permissions import DjangoModelPermissions
from rest_framework.request import Request


class RolePermissions(DjangoModelPermissions):
    """Django's model permissions, reading included: a signed-in user without a role sees nothing.

    A view names the permission of an action of its own in `action_permissions`, as {"cancel": "app.permission"}.
    A view without a queryset asks for a signed-in user only.
    """

    perms_map = {
        "GET": ["%(app_label)s.view_%(model_name)s"],
        "HEAD": ["%(app_label)s.view_%(model_name)s"],
        "OPTIONS": ["%(app_label)s.view_%(model_name)s"],
        "POST": ["%(app_label)s.add_%(model_name)s"],
        "PUT": ["%(app_label)s.change_%(model_name)s"],
        "PATCH": ["%(app_label)s.change_%(model_name)s"],
        "DELETE": ["%(app_label)s.delete_%(model_name)s"],
    }

    def has_permission(self, request: Request, view: View) -> bool:
        named = getattr(view, "action_permissions", {}).get(getattr(view, "action", None))
        if named is not None:
            return bool(request.user and request.user.is_authenticated and request.user.has_perm(named))
        if not hasattr(view, "get_queryset"):
            return bool(request.user and request.user.is_authenticated)
        return super().has_permission(request, view)
