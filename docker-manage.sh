#!/usr/bin/env bash
# Runs a stack on this host without Ansible: ./docker-manage.sh local up|down|logs|shell|manage|migrate|ps|status …
# Finds Python and the engine, and hands over; everything else is the engine's.
set -euo pipefail

here=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)

fail() {
  printf 'docker-manage.sh: %s\nNext: %s\n' "$1" "$2" >&2
  exit "${3:-1}"
}

command -v python3 >/dev/null || fail "python3 is not installed." "apt-get install python3"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
  fail "$(python3 --version) is too old; 3.9 or newer is needed." "put a newer python3 first on PATH"

# On a host the engine lies beside this script; in the repository it is a package.
if [ -f "$here/bin/engine.pyz" ]; then
  engine=(python3 "$here/bin/engine.pyz")
else
  # Without bytecode: under sudo it would be root's, in the user's checkout.
  engine=(env PYTHONDONTWRITEBYTECODE=1 "PYTHONPATH=$here/plugins/module_utils${PYTHONPATH:+:$PYTHONPATH}" python3 -m kit_engine)
fi

env=${1:-help}
case $env in
  help | -h | --help) exec "${engine[@]}" --help ;;
esac
shift
[ $# -gt 0 ] || fail "what should be done with $env?" "./docker-manage.sh help" 2

if [ -d "$here/inventories" ]; then
  root=$here/build/$env
  [ -d "$here/inventories/$env" ] ||
    fail "there is no environment '$env'; there are: $(ls -m "$here/inventories")" "./docker-manage.sh local $*" 2
  if [ ! -f "$root/stack.json" ]; then
    [ "$1" = up ] || fail "build/$env is not rendered: nothing of $env was ever started here." "make deploy ENV=$env"
    command -v make >/dev/null || fail "build/$env is not rendered, and there is no make." "apt-get install make"
    make --directory "$here" render "ENV=$env" >&2
  fi
else
  root=$here
fi
# Who may not use Docker's socket, but is allowed to sudo, need not know: a deploy does the same.
if [ "$(id -u)" -ne 0 ] && command -v docker >/dev/null && command -v sudo >/dev/null; then
  if ! said=$(docker version 2>&1) && [[ $said == *"permission denied"* ]]; then
    if sudo -n true 2>/dev/null; then engine=(sudo -n "${engine[@]}"); elif [ -t 0 ]; then engine=(sudo "${engine[@]}"); fi
  fi
fi
exec "${engine[@]}" --root "$root" --env "$env" "$@"
