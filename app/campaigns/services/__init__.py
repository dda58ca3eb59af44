"""Writes: contacts (import, unsubscribe), campaigns (their states), sending (the mails)."""
