"""The three roles, as Django groups. campaigns/migrations/0002_roles.py gives them their permissions."""

VIEWER = "viewer"
EDITOR = "editor"
SENDER = "sender"
ROLES = (VIEWER, EDITOR, SENDER)
