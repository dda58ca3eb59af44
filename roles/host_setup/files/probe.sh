#!/bin/sh
# Usage: probe.sh USER FOLDER    (as root)
# Says in one go all that host_setup judges: lines of "kit:<name> <value>", files as base64 on one line.
# Plain sh, because a host that was never set up may have no Python.
PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin
user=$1
folder=$2
say() { printf 'kit:%s %s\n' "$1" "$2"; }
file() { [ -e "$2" ] && say "$1" "$(base64 <"$2" 2>/dev/null | tr -d '\n')"; }
has() { command -v "$1" >/dev/null 2>&1; }
limited() { if has timeout; then timeout 10 "$@"; else "$@"; fi; }

say now "$(date +%s)"
say uid "$(id -u)"
if [ -r /etc/os-release ]; then
  # shellcheck disable=SC1091
  say os "$(. /etc/os-release && printf '%s' "${PRETTY_NAME:-${ID:-}}")"
fi
[ -d /run/systemd/system ] && say systemd yes
has systemd-detect-virt && say container "$(systemd-detect-virt --container 2>/dev/null)"
has apt-get && say apt yes
has python3 && say python "$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1 | tail -n 1)"
has sudo && say sudo yes
has nft && say nft yes
has restic && say restic yes
has ssh && say ssh yes

# The port that this very session came in by, from whichever process on the way up still has the variable.
pid=$$
while [ "${pid:-0}" -gt 1 ]; do
  session=$(tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | sed -n 's/^SSH_CONNECTION=//p')
  [ -n "$session" ] && break
  pid=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$pid/status" 2>/dev/null)
done
say session "${session:-}"
if has sshd; then
  limited sshd -T 2>/dev/null | sed -n -E \
    's/^(port|passwordauthentication|kbdinteractiveauthentication|permitrootlogin|x11forwarding) /kit:sshd \1 /p'
  [ -d /etc/ssh/sshd_config.d ] && say ssh_drop_ins yes
  file ssh_drop_in /etc/ssh/sshd_config.d/00-kit.conf
fi

if getent passwd "$user" >/dev/null; then
  home=$(getent passwd "$user" | cut -d: -f6)
  say user "$(id -u "$user")"
  say groups "$(id -Gn "$user")"
  # shellcheck disable=SC2046
  set -- $(passwd -S "$user" 2>/dev/null)
  say password "${2:-}"
  file keys "$home/.ssh/authorized_keys"
  has sudo && limited sudo -n -l -U "$user" 2>/dev/null | grep -q -E '^ *\(ALL( : ALL)?\) NOPASSWD: ALL' &&
    say administers yes
fi
login_home=$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)
file login_keys "$login_home/.ssh/authorized_keys"
say login "${SUDO_USER:-root}"

for path in "$folder" "$folder/releases" "$folder/records"; do
  if [ -L "$path" ]; then
    say path "$path symbolic-link"
  elif [ -e "$path" ]; then
    say path "$path $(stat -c '%F:%U:%G:%a' "$path" | tr ' ' '-')"
  fi
done
[ -d "$folder" ] && [ -n "$(ls -A "$folder")" ] && say filled yes

if has systemctl; then
  for unit in chrony chronyd ntp ntpd ntpsec openntpd systemd-timesyncd docker; do
    say unit "$unit $(systemctl is-enabled "$unit" 2>/dev/null | head -n 1) $(systemctl is-active "$unit" 2>/dev/null)"
  done
  for unit in apt-daily.timer apt-daily-upgrade.timer kit-firewall.service; do
    say unit "$unit $(systemctl is-enabled "$unit" 2>/dev/null | head -n 1) $(systemctl is-active "$unit" 2>/dev/null)"
  done
fi
if has dpkg-query; then
  for package in systemd-timesyncd chrony ntp ntpsec openntpd unattended-upgrades nftables; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] && say package "$package"
  done
fi
file updates /etc/apt/apt.conf.d/52kit-updates

has ip && for family in -4 -6; do
  ip "$family" route show default 2>/dev/null | sed -n -E 's/.* dev ([^ ]+).*/kit:uplink \1/p'
done
file rules /etc/kit-firewall.nft
file rules_unit /etc/systemd/system/kit-firewall.service
has nft && nft list table inet kit_firewall >/dev/null 2>&1 && say rules_loaded yes
say end
