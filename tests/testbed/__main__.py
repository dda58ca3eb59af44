"""Bring hosts up and down by hand: `python -m testbed up --hosts 1 --distro trixie`, then `down`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from testbed.errors import TestbedError
from testbed.flags import DISTROS
from testbed.hosts import CHECKOUT, down, down_manual, up
from testbed.project import inventory_variables


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: the words of the command line.

    Returns:
        0, or 1 after an error that was told on standard error.
    """
    parser = argparse.ArgumentParser(prog="testbed", description="Fresh Debian hosts as containers.")
    commands = parser.add_subparsers(dest="command", required=True)
    bring_up = commands.add_parser("up", help="bring up hosts; the last line is the inventory's path")
    bring_up.add_argument("--hosts", type=int, default=1, help="how many (1 to 9)")
    bring_up.add_argument("--distro", default="trixie", help=f"one of: {', '.join(DISTROS)}")
    bring_up.add_argument(
        "--publish", type=int, action="append", default=[], metavar="PORT",
        help="a port inside the hosts to reach on 127.0.0.1; may be repeated",
    )  # fmt: skip
    bring_up.add_argument(
        "--manifest", type=Path, default=CHECKOUT / "app/deploy.yml",
        help="the project that the inventory is filled in for",
    )  # fmt: skip
    take_down = commands.add_parser("down", help="remove this checkout's hosts and all leftovers")
    take_down.add_argument("--run", help="only this run")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "up":
            _up(chosen.hosts, chosen.distro, chosen.publish, chosen.manifest)
        elif chosen.run:
            print(f"{down(chosen.run)} host(s) of run {chosen.run} removed")
        else:
            print(f"removed runs: {', '.join(down_manual()) or 'none'}")
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


def _up(hosts: int, distro: str, publish: Sequence[int], manifest: Path) -> None:
    begun = time.monotonic()
    run = up(hosts=hosts, distro=distro, publish=publish, variables=inventory_variables(manifest))
    for host in run.hosts:
        print(f"{host.name}: {host.distro}, ssh -F {run.folder / 'ssh_config'} {host.name}")
        for inside, outside in host.ports.items():
            print(f"  port {inside} is 127.0.0.1:{outside}")
    print(f"up in {time.monotonic() - begun:.1f} s; remove with: make testbed-down")
    print(run.inventory)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
