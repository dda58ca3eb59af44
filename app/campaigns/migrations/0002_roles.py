"""The groups viewer, editor and sender, with their permissions."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

# Frozen here: a migration must do the same for ever, whatever accounts/roles.py says later.
MODELS = {
    "contact": "contact",
    "contactlist": "contact list",
    "messagetemplate": "message template",
    "templateimage": "template image",
    "campaign": "campaign",
    "delivery": "delivery",
}
VIEW = [f"view_{model}" for model in MODELS]
EDIT = [f"{verb}_{model}" for verb in ("add", "change", "delete") for model in MODELS if model != "delivery"]
ROLES = {"viewer": VIEW, "editor": VIEW + EDIT, "sender": [*VIEW, "send_campaign"]}


def create_roles(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Create the groups.

    Django makes the permissions after all migrations have run, so they are made here, by the names it will look for.
    """
    content_type = apps.get_model("contenttypes", "ContentType").objects
    permission = apps.get_model("auth", "Permission").objects
    group = apps.get_model("auth", "Group").objects
    made = {}
    for model, verbose in MODELS.items():
        kind, _ = content_type.get_or_create(app_label="campaigns", model=model)
        names = {f"{verb}_{model}": f"Can {verb} {verbose}" for verb in ("add", "change", "delete", "view")}
        if model == "campaign":
            names["send_campaign"] = "Can schedule, send and cancel campaigns"
        for codename, name in names.items():
            made[codename], _ = permission.get_or_create(content_type=kind, codename=codename, defaults={"name": name})
    for role, codenames in ROLES.items():
        group.get_or_create(name=role)[0].permissions.add(*(made[codename] for codename in codenames))


def remove_roles(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Remove the groups; the permissions belong to their models."""
    apps.get_model("auth", "Group").objects.filter(name__in=ROLES).delete()


class Migration(migrations.Migration):
    dependencies = [
        ("campaigns", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.RunPython(create_roles, remove_roles),
    ]
