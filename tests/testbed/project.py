"""What an inventory of the bed says of the project, so that it can be deployed to any environment as it is."""

from pathlib import Path

from support.kit import plain_values

DOMAIN = "site.test"


def inventory_variables(manifest: Path) -> dict[str, object]:
    """Answer what only somebody who runs the project could know.

    Args:
        manifest: of the project.

    Returns:
        Variables of each host: host names, a stand-in for each required value, base images that need no registry,
        and leave for smoke tests that write.
    """
    return {
        "app_domains": [DOMAIN],
        "app_variables": plain_values(manifest),
        "base_images_source": "packages",
        "smoke_writes": True,
    }
