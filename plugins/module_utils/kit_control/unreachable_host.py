"""Why a host cannot be reached, and what to type then."""

from __future__ import annotations

from kit_control.errors import KitError

# The cause where nothing more is known.
SILENT = "it does not answer"


def explain(host: str, address: str, said: str, login: str = "", known: str = "") -> KitError:
    """Turn what SSH said into host, cause and the next command.

    Args:
        host: its name in the inventory.
        address: where it was tried.
        said: SSH's own words.
        login: what follows ``ssh`` for a login by hand; default: the address.
        known: the host's name in the file of known hosts; default: the address.
    """
    login, known = f"ssh {login or address}", known or address
    low = said.lower()
    if "identification has changed" in low:
        cause = "its host key is not the known one: another machine answers there, or it was installed anew"
        remedy = (
            f"compare the new key with the host's own (ssh-keygen -lf), then: ssh-keygen -R {known}, and make provision"
        )
    elif "host key verification failed" in low:
        cause, remedy = "its host key is not known here", "make provision    (shows the fingerprint and asks)"
    elif "permission denied" in low or "too many authentication" in low:
        cause = "it refuses the login: wrong user, or a key that it does not know"
        remedy = f"{login}    (does it let you in?), then correct ansible_user or the key in the inventory"
    elif "could not resolve" in low:
        cause, remedy = "its name is not known to any name server", "correct ansible_host in the inventory"
    else:
        cause, remedy = SILENT, f"{login}    (is the host up, and the port right?)"
    return KitError(
        "unreachable", f"Host {host} ({address}) cannot be reached: {cause}.\n    {last_line(said)}", remedy
    )


def last_line(said: str) -> str:
    """Give the last line of what SSH said that tells something."""
    lines = [line.strip() for line in said.replace("\\r\\n", "\n").splitlines() if line.strip(" @\r")]
    return lines[-1] if lines else "(it said nothing)"
