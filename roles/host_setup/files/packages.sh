#!/bin/sh
# Usage: packages.sh PACKAGE...    (as root)
# apt-get itself and not Ansible's module: Python may be one of the packages.
set -eu
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
attempt() {
  "$@" >"$log" 2>&1 && return
  tail -n 8 "$log" >&2
  exit 1
}
attempt apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 -o APT::Update::Error-Mode=any update
# --no-remove: what the user has for the same purpose is not pushed out.
attempt apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 -o Dpkg::Options::=--force-confold \
  install --yes --no-install-recommends --no-remove "$@"
