#!/usr/bin/env bash
# Tries the packages of scripts/package.sh on a bare Debian 12 that debootstrap makes: each is installed there, and draws.
#   scripts/package_test.sh      as root; without root it says so and exits with 77
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ "$(id -u)" -ne 0 ]; then
  echo "Skipped: trying the packages, which needs root for debootstrap and chroot"
  exit 77
fi
install_packages debootstrap lintian
deb=$(scripts/package.sh deb)
tarball=$(scripts/package.sh tarball)
lintian --allow-root --fail-on error "$deb"

base=$(mktemp -d)
clean_up() {
  ! mountpoint -q "$base/bare/proc" || umount "$base/bare/proc"
  rm -rf --one-file-system "$base"
}
trap clean_up EXIT
debootstrap --variant=minbase bookworm "$base/bare" >"$base/debootstrap.log" || { cat "$base/debootstrap.log" >&2; exit 1; }

# Programs find themselves, and what stands beside them, by /proc.
mount -t proc proc "$base/bare/proc"

# draws ROOT PROGRAM: whether the program says its version and draws a picture.
draws() {
  chroot "$1" "$2" --version
  chroot "$1" "$2" generate --prompt "A lion on a beach" --height 64 --width 64 --num-inference-steps 2 --output /tmp/lion.png
  [ "$(head -c 4 "$1/tmp/lion.png" | tail -c 3)" = PNG ]
}

# The tarball first: nothing but debootstrap's own packages is there.
tar -C "$base/bare/opt" -xf "$tarball"
draws "$base/bare" "/opt/$(basename "$tarball" .tar.xz)/bin/nostos"
rm "$base/bare/tmp/lion.png"

cp /etc/resolv.conf "$base/bare/etc/resolv.conf"
cp "$deb" "$base/bare/tmp/nostos.deb"
chroot "$base/bare" apt-get update -q
chroot "$base/bare" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends /tmp/nostos.deb
draws "$base/bare" nostos
for file in man/man1/nostos.1.gz man/man1/nostos-generate.1.gz bash-completion/completions/nostos fish/vendor_completions.d/nostos.fish \
  zsh/vendor-completions/_nostos; do
  [ -s "$base/bare/usr/share/$file" ] || { echo "error: the package has no $file" >&2; exit 1; }
done
chroot "$base/bare" apt-get remove -q -y nostos
echo "The packages install on a bare Debian 12, and draw."
