#!/bin/sh
# Usage: ssh.sh try SECONDS <SETTINGS | keep | undo    (as root)
# As firewall.sh: the settings undo themselves unless they are kept in time.
set -eu
PATH=$PATH:/usr/sbin:/sbin
folder=/run/kit-ssh
undo=kit-ssh-undo
target=/etc/ssh/sshd_config.d/00-kit.conf
fail() {
  printf '%s\n' "$1" >&2
  exit 1
}
undo() {
  sh "$folder/undo.sh"
  systemctl stop "$undo.timer" 2>/dev/null || true
}
waits() { systemctl is-active --quiet "$undo.timer"; }

case $1 in
  try)
    install -d -m 0700 "$folder"
    ! waits || undo
    cat >"$folder/new.conf"
    if [ -e "$target" ]; then
      cp -p "$target" "$folder/old.conf"
      printf 'cp -p %s/old.conf %s\n' "$folder" "$target" >"$folder/undo.sh"
    else
      printf 'rm -f %s\n' "$target" >"$folder/undo.sh"
    fi
    echo 'systemctl try-reload-or-restart ssh.service' >>"$folder/undo.sh"
    systemd-run --quiet --collect --unit="$undo" --on-active="$2" --timer-property=AccuracySec=1s \
      /bin/sh "$folder/undo.sh"
    install -m 0644 "$folder/new.conf" "$target"
    if ! sshd -t >&2; then
      undo
      fail 'sshd does not take the settings.'
    fi
    sshd -T >"$folder/effective"
    grep -v '^#' "$folder/new.conf" | tr '[:upper:]' '[:lower:]' | while read -r line; do
      grep -q -x -F -e "$line" "$folder/effective" || echo "$line"
    done >"$folder/without_effect"
    if [ -s "$folder/without_effect" ]; then
      undo
      fail "These have no effect, so sshd_config does not read sshd_config.d first: $(tr '\n' ';' <"$folder/without_effect")"
    fi
    systemctl try-reload-or-restart ssh.service
    ;;
  keep)
    waits || fail 'The settings have been undone already: this came too late.'
    systemctl stop "$undo.timer"
    rm -r "$folder"
    ;;
  undo) undo ;;
  *) fail "unknown verb: $1" ;;
esac
