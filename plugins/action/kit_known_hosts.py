"""See that every host's own key is known before anything logs in to it; a new one is shown and wants a confirmation."""

from __future__ import annotations

import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.utils.display import Display

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from kit_control import inventory_checks, known_hosts
from kit_control.action import KitAction
from kit_control.errors import KitError


class ActionModule(KitAction):
    """Arguments: ``confirmed`` (fingerprints that a person has compared), ``command`` (what was typed)."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"confirmed", "command"})

    def work(self) -> dict[str, Any]:
        """Judge all hosts at once; see the module's docstring."""
        env = str(self._templar.template(self.variables["kit_env"]))
        hosts = list(self.variables["groups"].get("app", []))
        mistakes = inventory_checks.host_problems({host: self._place(host) for host in hosts}, env)
        if mistakes:
            raise KitError("inventory", "\n".join(mistakes), f"then: make provision ENV={env}")
        local = [host for host in hosts if self._of(host, "ansible_connection", "ssh") == "local"]
        if local:
            raise KitError(
                "inventory",
                f"{', '.join(local)} is this machine; provisioning is for hosts over SSH, and would set up users and a "
                "firewall here. Nothing was changed.",
                f"make deploy ENV={env}    (brings the engine that is lacking); or another ENV=",
            )
        given = known_hosts.confirmed(str(self._task.args.get("confirmed") or ""))
        with ThreadPoolExecutor(max_workers=20) as pool:
            answers = list(pool.map(self._judged, hosts))
        errors = [answer for answer in answers if isinstance(answer, KitError)]
        if errors:
            *others, last = errors
            raise KitError(last.code, "\n".join([*map(str, others), last.problem]), last.remedy)
        verdicts = [answer for answer in answers if isinstance(answer, known_hosts.Verdict) and answer.new]
        return self._accept(verdicts, given)

    def _accept(self, verdicts: list[known_hosts.Verdict], given: frozenset[str]) -> dict[str, Any]:
        keys = {verdict.way: [key for key in verdict.new if key.fingerprint in given] for verdict in verdicts}
        waiting = [verdict for verdict in verdicts if not keys[verdict.way]]
        if waiting and (given or not self._asked(waiting)):
            raise known_hosts.unconfirmed(waiting, given, str(self._task.args["command"]))
        for verdict in waiting:
            keys[verdict.way] = list(verdict.new)
        if self._task.check_mode and keys:
            names = ", ".join(way.host for way in keys)
            raise KitError(
                "host_key",
                f"Check mode keeps no host key, and without it {names} cannot be looked at.",
                "run it once without --check, or log in once with ssh",
            )
        for way, accepted in keys.items():
            known_hosts.write(way, accepted)
        return {
            "changed": bool(keys),
            "accepted": {way.host: [key.shown for key in accepted] for way, accepted in keys.items()},
        }

    def _asked(self, waiting: list[known_hosts.Verdict]) -> bool:
        """Show the fingerprints and ask; False where nobody sits at a terminal."""
        shown = "\n".join(
            f"{verdict.way.place} shows for the first time:\n" + "\n".join(f"    {key.shown}" for key in verdict.new)
            for verdict in waiting
        )
        question = f"{shown}\nAre these the hosts' own keys? Type yes to keep them: "
        try:
            answer = Display().prompt_until(question, private=False)
        except AnsibleError:
            return False
        text = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
        return text.strip().lower() == "yes"

    def _judged(self, host: str) -> known_hosts.Verdict | KitError:
        try:
            way = known_hosts.resolve(host, self._words(host))
            known = known_hosts.look_up(way)
            if way.through and not (known.keys or known.certified):
                words = shlex.join(self._words(host))
                return KitError(
                    "host_key",
                    f"{way.place} is reached through {way.through}, so its key cannot be looked at from here, and it "
                    "is not known yet.",
                    f"log in once, which shows the key and asks: ssh {words}",
                )
            return (
                known_hosts.Verdict(way) if way.through else known_hosts.judge(way, known, known_hosts.scan(way, known))
            )
        except KitError as error:
            return error

    def _words(self, host: str) -> list[str]:
        """Arguments of ssh as Ansible would give them, as far as they decide about keys."""
        words = []
        for name in ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args"):
            words += shlex.split(self._of(host, name, ""))
        port, user = self._of(host, "ansible_port", ""), self._of(host, "ansible_user", "")
        words += ["-p", port] if port else []
        words += ["-l", user] if user else []
        return [*words, self._of(host, "ansible_host", host)]

    def _place(self, host: str) -> tuple[str, str, str]:
        address, port = self._of(host, "ansible_host", host), self._of(host, "ansible_port", "22")
        return address, port, self._of(host, "deploy_root", "")

    def _of(self, host: str, name: str, default: str) -> str:
        return str(self._templar.template(self.variables["hostvars"][host].get(name, default)))
