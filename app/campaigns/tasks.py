"""Background tasks, and what puts them into the queue."""

from django.conf import settings
from django_tasks import task

from campaigns.services import sending


@task
def send_campaign_batch(campaign_id: int) -> None:
    """Send one batch and queue the next; where tasks run at once, send all batches."""
    while sending.send_batch(campaign_id):
        if not settings.CAMPAIGN_SEND_IN_ONE_TASK:
            send_campaign_batch.enqueue(campaign_id)
            return


@task
def send_due() -> None:
    """Do what `manage.py send_due` does."""
    queue_due_campaigns()


def queue_due_campaigns() -> int:
    """Start all due campaigns and queue a batch for each campaign that waits for one. Safe to run anywhere, any time.

    Returns:
        The number of batches queued.
    """
    while sending.start_next_due_campaign() is not None:
        pass
    queued = 0
    while (campaign_id := sending.take_next_stalled_campaign()) is not None:
        send_campaign_batch.enqueue(campaign_id)
        queued += 1
    return queued
