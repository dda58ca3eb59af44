#!/usr/bin/env bash
# Makes .venv and installs one locked set of packages into it; called by make with the stamp and the lock.
set -euo pipefail

stamp=$1
lock=$2

fail() {
  printf 'make setup: %s\nNext: %s\n' "$1" "$2" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

command -v python3 >/dev/null || fail "python3 is not installed." "apt-get install python3"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$(python3 --version) is too old; 3.11 or newer is needed." "put a newer python3 first on PATH"
command -v git >/dev/null || fail "git is not installed." "apt-get install git"
[ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
  fail "Neither root nor sudo: the container engine could not be installed." "su -c 'apt-get install sudo'"

if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  command -v apt-get >/dev/null || fail "Python's venv module is missing." "install your system's python3-venv package"
  echo "setup: installing python3-venv (it is missing)"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update --quiet=2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends python3-venv >/dev/null
fi

# A company's own certificate authority stands in the system's bundle, but not in those that pip and uv bring along.
bundle=/etc/ssl/certs/ca-certificates.crt
if [ -r "$bundle" ]; then
  export PIP_CERT=${PIP_CERT:-$bundle} SSL_CERT_FILE=${SSL_CERT_FILE:-$bundle}
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1

if [ ! -x .venv/bin/uv ]; then
  echo "setup: making .venv"
  python3 -m venv --clear .venv
  .venv/bin/pip install --quiet --require-hashes --requirement requirements/uv.txt
fi
echo "setup: installing $lock"
.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --requirement "$lock"
touch "$stamp"
