"""Judge the certificate that an environment wants, and have the engine bring it into use where the host has another.

An action and not a module: the key is read and judged in this process alone, and travels on standard input; a host that
serves the wanted one already is not asked again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display
from kit_control import certificates, engine_call
from kit_control.action import KitAction
from kit_control.errors import KitError
from kit_engine import x509
from kit_engine.certificate_checks import Pair, date, days_left

_LOCKED = b"$ANSIBLE_VAULT"


class ActionModule(KitAction):
    """Arguments: ``only_check`` (judge what is given, touch no host). All else are the inputs of role tls."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"only_check"})

    def work(self) -> dict[str, Any]:
        """Judge, compare, install; see the module's docstring."""
        inputs = certificates.Inputs(
            mode=self._text("mode"),
            domains=tuple(str(name) for name in self._input("domains")),
            certificate_file=self._text("certificate_file"),
            key_file=self._text("key_file"),
            certificate=self._text("certificate"),
            key=self._text("key"),
            ca_file=self._text("ca_file"),
            env=str(self._templar.template(self.variables["kit_env"])),
            read=self._read,
        )
        if self._task.args.get("only_check", False):
            if inputs.mode == certificates.SELF_SIGNED:
                return {"changed": False}
            _pair, chain = certificates.judged(inputs)
            return {"changed": False, "serial": chain[0].serial}
        there = self._input("current")
        return self._told(self._ask() if there is None else there, inputs)

    def _told(self, there: dict[str, Any], inputs: certificates.Inputs) -> dict[str, Any]:
        """Bring the wanted certificate into use, unless it is."""
        pair, choice = None, certificates.Choice(make=False)
        if inputs.mode == certificates.PROVIDED:
            given, chain = certificates.judged(inputs)
            if there.get("sha256") != x509.fingerprint(chain):
                pair = given
        else:
            replaces = boolean(self._input("selfsigned_replaces"))
            choice = certificates.choose(there, inputs.domains, time.time(), replaces=replaces)
            if choice.make:
                pair = certificates.self_signed(inputs.domains, int(self._input("selfsigned_days")))
        if choice.note:
            Display().display(f"    [{self.host}] tls: {choice.note}")
        if pair is None and there.get("served") is not False:
            return {"changed": False, "certificate": there, **self._warning(there)}
        if self._task.check_mode:
            return {"changed": True, **({"warnings": [choice.warning]} if choice.warning else {})}
        told = self._call(pair)
        if not told.get("failed"):
            others = [*told.get("warnings", ()), *([choice.warning] if choice.warning else [])]
            told.update(self._warning(told["certificate"], *others))
        return told

    def _ask(self) -> dict[str, Any]:
        """What the host has, where no preflight has told."""
        told = self._call(None, only_ask=True)
        if told.get("failed"):
            raise KitError(str(told["code"]), str(told["problem"]), str(told["next"]))
        return dict(told["certificate"])

    def _call(self, pair: Pair | None, *, only_ask: bool = False) -> dict[str, Any]:
        asked = {"name": self._text("name"), "uid": int(self._input("uid")), "domains": list(self._input("domains"))}
        content = json.dumps({"chain": pair.chain, "key": pair.key}).encode() if pair else None
        words = ["--request", json.dumps({**asked, "only_ask": only_ask})]
        root, python = Path(self._text("root")), self._text("python")
        return engine_call.call(self, root, python, "install-certificate", words, stdin=content)

    def _warning(self, there: Mapping[str, Any], *others: str) -> dict[str, Any]:
        not_after = float(there["not_after"])
        left = days_left(not_after)
        warnings = list(others)
        if left < int(self._input("warn_days")):
            what = "a deploy after that makes a new one" if there["self_signed"] else "renew it"
            name = self._text("name")
            warnings.append(f"The certificate of {name} expires in {left} days, on {date(not_after)}: {what}.")
        return {"warnings": warnings} if warnings else {}

    def _input(self, name: str) -> Any:
        return self._templar.template(self.variables[f"tls_{name}"])

    def _text(self, name: str) -> str:
        return str(self._input(name) or "")

    def _read(self, name: str) -> str:
        path = Path(str(self._templar.template(self.variables["kit_root"])), name).expanduser()
        content = path.read_bytes()
        if not content.startswith(_LOCKED):
            return content.decode("ascii")
        try:
            return str(self._loader.get_text_file_contents(str(path)))
        except AnsibleError:
            raise KitError(
                "vault",
                f"{path} is locked with ansible-vault, and the vault password that was given does not open it.",
                "export ANSIBLE_VAULT_PASSWORD_FILE=path    (names the right password)",
            ) from None
