"""What a deployed site must be able to do, from outside: log in, send a campaign to three contacts.

Run by the kit's tests on a host, by its own Python; needs nothing but the standard library.

Reads {"base", "username", "password", "mark"} from standard input and prints one JSON object.
"""

import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

# In local the mails are sent within the request; a worker elsewhere looks every few seconds.
WAIT_SECONDS = 30


def call(base: str, path: str, token: str = "", data: "dict[str, Any] | None" = None) -> Any:
    """Send one request to the API.

    Args:
        base: address of the site.
        path: path below /api/.
        token: access token.
        data: what to post; None reads.

    Returns:
        The decoded answer.
    """
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    body = None if data is None else json.dumps(data).encode()
    # The address is the caller's own: the site that the tests deployed.
    request = urllib.request.Request(f"{base}/api/{path}", data=body, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{request.get_method()} /api/{path}: {error.code} {error.read().decode()}") from None


def main() -> None:
    """Do it."""
    given = json.load(sys.stdin)
    base, mark = given["base"], given["mark"]
    login = {"username": given["username"], "password": given["password"]}
    token = call(base, "token/", data=login)["access"]
    contacts = [
        call(base, "contacts/", token, {"email": f"{mark}-{name}@example.com", "first_name": name})
        for name in ("ada", "grace", "edsger")
    ]
    chosen = call(base, "lists/", token, {"name": f"list {mark}"})
    call(base, f"lists/{chosen['id']}/add/", token, {"contacts": [contact["id"] for contact in contacts]})
    template = call(
        base, "templates/", token, {"name": f"template {mark}", "subject": f"News {mark}", "text_body": "Hello."}
    )
    draft = {"name": f"campaign {mark}", "contact_list": chosen["id"], "template": template["id"]}
    campaign = call(base, "campaigns/", token, draft)
    call(base, f"campaigns/{campaign['id']}/send/", token, {})
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        campaign = call(base, f"campaigns/{campaign['id']}/", token)
        if campaign["status"] == "sent" or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    emails = [contact["email"] for contact in contacts]
    print(
        json.dumps(
            {
                "done": campaign["status"] == "sent",
                "deliveries": campaign["deliveries"],
                "emails": emails,
                "subject": template["subject"],
            }
        )
    )


if __name__ == "__main__":
    main()
