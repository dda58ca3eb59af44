#!/bin/sh
# Says in one go all that docker_host judges: lines of "kit:<name> <value>", files as base64 on one line.
# Plain sh without Python, because this is the one thing that runs on every deploy and on hosts that have nothing yet.
PATH=$PATH:/usr/sbin:/sbin
say() { printf 'kit:%s %s\n' "$1" "$2"; }
file() { [ -e "$2" ] && say "$1" "$(base64 <"$2" 2>/dev/null | tr -d '\n')"; }
# A hung engine would hang the deploy: 20 s is far more than the slowest healthy answer over a remote context.
limited() { if command -v timeout >/dev/null; then timeout 20 "$@"; else "$@"; fi; }

say uid "$(id -u)"
say free_kib "$(df -Pk /var 2>/dev/null | awk 'NR == 2 { print $4 }')"
say user "$(id -un)"
say docker_host "${DOCKER_HOST:-}"
if [ -r /etc/os-release ]; then
  # shellcheck disable=SC1091
  say os "$(. /etc/os-release && printf '%s %s %s' "${ID:-}" "${VERSION_ID:-}" "${VERSION_CODENAME:-}")"
fi
[ -d /run/systemd/system ] && say systemd yes
command -v dockerd >/dev/null && say dockerd yes
file daemon_json /etc/docker/daemon.json
file marker /etc/docker/written-by-kit.json
info=
if command -v docker >/dev/null; then
  say docker "$(command -v docker)"
  info=$(limited docker info --format '{{json .}}' 2>&1) || say status $?
  printf '%s\n' "$info" | sed 's/^/kit:info /'
fi
case $info in
  *'"Name":"compose"'*) ;;
  *) command -v docker-compose >/dev/null && say standalone "$(limited docker-compose version --short 2>&1 | tail -n 1)" ;;
esac
say end
