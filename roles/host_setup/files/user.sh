#!/bin/sh
# Usage: user.sh NAME SUDO DOCKER <KEYS    (as root; yes or no each)
# Adds what is lacking and takes nothing away: a key that another person needs stays.
set -eu
name=$1
# '*' is a password that nobody has, and unlike a locked account it lets keys in.
getent passwd "$name" >/dev/null || useradd --create-home --shell /bin/bash --password '*' "$name"
home=$(getent passwd "$name" | cut -d: -f6)
group=$(id -gn "$name")
[ -d "$home/.ssh" ] || install -d -m 0700 -o "$name" -g "$group" "$home/.ssh"
keys=$home/.ssh/authorized_keys
[ -e "$keys" ] || install -m 0600 -o "$name" -g "$group" /dev/null "$keys"
# A last line without its end would swallow the first new key.
[ -z "$(tail -c 1 "$keys")" ] || echo >>"$keys"
while IFS= read -r key; do
  [ -z "$key" ] || grep -q -x -F -e "$key" "$keys" || printf '%s\n' "$key" >>"$keys"
done
if [ "$2" = yes ]; then
  new=$(mktemp)
  printf '%s ALL=(ALL:ALL) NOPASSWD: ALL\n' "$name" >"$new"
  visudo --quiet --check --file="$new" >&2
  install -m 0440 "$new" /etc/sudoers.d/kit-deploy-user
  rm -f "$new"
fi
if [ "$3" = yes ]; then
  getent group docker >/dev/null || groupadd --system docker
  usermod --append --groups docker "$name"
fi
