#!/bin/sh
# Usage: … try SECONDS <CHANGE | keep <REST | undo    (as root)
# Runs behind a script that says what is changed: $folder for what is kept meanwhile, $undo (a unit's name), $target, and
# save (print the commands that put back what is there), change, settle (read REST; what outlives a reboot).
# shellcheck disable=SC2154
# `try` changes for SECONDS only: a timer of systemd puts back what was there, whatever becomes of this session.
set -eu
PATH=$PATH:/usr/sbin:/sbin
fail() {
  printf '%s\n' "$1" >&2
  exit 1
}
undo() {
  # A timer whose time has come is at work; our own call would only do the same once more.
  sh "$folder/undo.sh"
  # It is gone once its time has come; one that goes on would undo what comes next.
  systemctl stop "$undo.timer" 2>/dev/null || ! waits || fail "The timer $undo.timer cannot be stopped."
}
waits() { systemctl is-active --quiet "$undo.timer"; }

case $1 in
  try)
    install -d -m 0700 "$folder"
    # A run that was cut off between `try` and `keep`.
    ! waits || undo
    cat >"$folder/new"
    save >"$folder/undo.sh"
    systemd-run --quiet --collect --unit="$undo" --on-active="$2" --timer-property=AccuracySec=1s \
      /bin/sh "$folder/undo.sh"
    change
    ;;
  keep)
    waits || fail "The change of $target has been undone already: this came too late."
    systemctl stop "$undo.timer"
    settle
    rm -r "$folder"
    ;;
  undo) undo ;;
  *) fail "unknown verb: $1" ;;
esac
