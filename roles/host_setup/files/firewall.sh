#!/bin/sh
# Usage: firewall.sh try SECONDS <RULES | keep <UNIT | undo    (as root)
# `try` loads the rules for SECONDS only: a timer of systemd puts back what was there, whatever becomes of this session.
# Until `keep`, nothing is on the disk, so a host that is switched off meanwhile starts as it was.
set -eu
PATH=$PATH:/usr/sbin:/sbin
folder=/run/kit-firewall
undo=kit-firewall-undo
table='inet kit_firewall'
fail() {
  printf '%s\n' "$1" >&2
  exit 1
}
undo() {
  # A timer whose time has come is at work; our own call would only do the same once more.
  nft -f "$folder/undo.nft"
  systemctl stop "$undo.timer" 2>/dev/null || true
}
waits() { systemctl is-active --quiet "$undo.timer"; }

case $1 in
  try)
    install -d -m 0700 "$folder"
    # A run that was cut off between `try` and `keep`.
    ! waits || undo
    cat >"$folder/new.nft"
    nft -c -f "$folder/new.nft" || fail 'nft does not take the rules.'
    # The first line makes the table where there is none, so that the second never fails.
    printf 'table %s\ndelete table %s\n' "$table" "$table" >"$folder/undo.nft"
    # shellcheck disable=SC2086
    nft list table $table >>"$folder/undo.nft" 2>/dev/null || true
    systemd-run --quiet --collect --unit="$undo" --on-active="$2" --timer-property=AccuracySec=1s \
      "$(command -v nft)" -f "$folder/undo.nft"
    nft -f "$folder/new.nft"
    ;;
  keep)
    waits || fail 'The rules have been undone already: this came too late.'
    systemctl stop "$undo.timer"
    install -m 0644 "$folder/new.nft" /etc/kit-firewall.nft
    cat >/etc/systemd/system/kit-firewall.service
    systemctl daemon-reload
    systemctl enable --quiet kit-firewall.service
    systemctl reload-or-restart kit-firewall.service
    rm -r "$folder"
    ;;
  undo) undo ;;
  *) fail "unknown verb: $1" ;;
esac
