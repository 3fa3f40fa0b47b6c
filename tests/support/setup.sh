# Sourced by ./test and ./demo: what a machine must have, installed from its own package sources where it isn't there.

# Cargo's own folder, where the shell that calls us doesn't have it in its path.
export PATH="$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"

say() { echo "$ME: $*" >&2; }
stop() { say "$*"; exit 2; }

need_cargo() {
  command -v cargo >/dev/null ||
    stop "cargo is missing. Install Rust 1.88 or newer with rustup (see the Rust project's own page), then run this again."
}

# need_packages COMMAND=PACKAGE... installs the packages whose command (or file) isn't there.
need_packages() {
  local pair what package missing=()
  for pair in "$@"; do
    what=${pair%%=*} package=${pair##*=}
    if [[ $what == */* ]]; then compgen -G "$what" >/dev/null && continue
    else command -v "$what" >/dev/null && continue; fi
    [[ " ${missing[*]} " == *" $package "* ]] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || stop "missing: ${missing[*]}. There is no apt-get here, so install them by hand."
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if sudo -n true 2>/dev/null; then as_root=(sudo -n)
    else stop "missing: ${missing[*]}. Run once as root: apt-get install ${missing[*]}"; fi
  fi
  say "installing ${missing[*]} from this machine's package sources"
  # policy-rc.d keeps a freshly installed server from being started as a service: the tests start their own.
  local policy=/usr/sbin/policy-rc.d made_policy=
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null && "${as_root[@]}" chmod +x $policy
    made_policy=1
  fi
  local log; log=$(mktemp)
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
    # The usual reason is that this machine's package lists are old or were never fetched.
    "${as_root[@]}" apt-get update >>"$log" 2>&1 || true
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
      tail -20 "$log" >&2
      [ -z "$made_policy" ] || "${as_root[@]}" rm -f $policy
      stop "could not install ${missing[*]} (the end of apt-get's output is above)"
    fi
  fi
  [ -z "$made_policy" ] || "${as_root[@]}" rm -f $policy
  rm -f "$log"
}
