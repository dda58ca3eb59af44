"""What services refuse to do."""


class CampaignStateError(Exception):
    """The campaign's state does not allow this step; the message says which states do."""
