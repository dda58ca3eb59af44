"""Groups, their permissions, and the services around them."""

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.exceptions import ValidationError

from accounts.roles import ROLES
from accounts.selectors import roles_of
from accounts.services import assign_roles


@pytest.mark.django_db
def test_the_migrations_make_the_roles_and_only_senders_send() -> None:
    assert set(Group.objects.values_list("name", flat=True)) == set(ROLES)
    senders = Group.objects.filter(permissions__codename="send_campaign").values_list("name", flat=True)
    assert list(senders) == ["sender"]
    editing = Permission.objects.filter(group__name="editor", codename="delete_contact")
    assert editing.exists()
    assert not Group.objects.exclude(name="editor").filter(permissions__codename="delete_contact").exists()


@pytest.mark.django_db
def test_no_permission_exists_twice() -> None:
    names = Permission.objects.filter(content_type__app_label="campaigns").values_list("codename", flat=True)
    assert len(names) == len(set(names)) == 6 * 4 + 1


def test_roles_are_replaced_and_other_groups_kept(user_with) -> None:
    user = user_with("viewer", "sender")
    user.groups.add(Group.objects.create(name="newsletter team"))
    assert roles_of(user) == ["viewer", "sender"]
    assign_roles(user=user, roles=["editor"])
    assert roles_of(user) == ["editor"]
    assert user.groups.filter(name="newsletter team").exists()


def test_an_unknown_role_is_refused(user_with) -> None:
    with pytest.raises(ValidationError, match="No such role: boss"):
        assign_roles(user=user_with(), roles=["boss"])
