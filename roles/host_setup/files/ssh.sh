#!/bin/sh
# What guarded.sh tries: the settings of sshd in <CHANGE.
# shellcheck disable=SC2034,SC2317
folder=/run/kit-ssh
undo=kit-ssh-undo
target=/etc/ssh/sshd_config.d/00-kit.conf

save() {
  if [ -e "$target" ]; then
    cp -p "$target" "$folder/old"
    printf 'cp -p %s/old %s\n' "$folder" "$target"
  else
    printf 'rm -f %s\n' "$target"
  fi
  echo 'systemctl try-reload-or-restart ssh.service'
}
change() {
  install -m 0644 "$folder/new" "$target"
  if ! sshd -t >&2; then
    undo
    fail 'sshd does not take the settings.'
  fi
  sshd -T >"$folder/effective"
  grep -v '^#' "$folder/new" | tr '[:upper:]' '[:lower:]' | while read -r line; do
    grep -q -x -F -e "$line" "$folder/effective" || echo "$line"
  done >"$folder/without_effect"
  if [ -s "$folder/without_effect" ]; then
    undo
    fail "These have no effect, so sshd_config does not read sshd_config.d first: $(tr '\n' ';' <"$folder/without_effect")"
  fi
  systemctl try-reload-or-restart ssh.service
}
settle() { :; }
