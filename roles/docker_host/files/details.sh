#!/bin/sh
# What choosing and adding packages needs to know: apt's own sources, the Docker packages that are there, AppArmor.
# Same line format as probe.sh.
say() { printf 'kit:%s %s\n' "$1" "$2"; }
for path in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  [ -r "$path" ] && say source "$path $(base64 <"$path" | tr -d '\n')"
done
dpkg-query --show --showformat='kit:package ${db:Status-Abbrev} ${Package} ${Version}\n' \
  docker.io docker-cli docker-ce docker-ce-cli podman-docker docker-compose docker-compose-v2 docker-compose-plugin \
  docker-buildx docker-buildx-plugin 2>/dev/null
[ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] && say apparmor yes
[ -d /etc/docker ] && say docker_folder yes
say end
