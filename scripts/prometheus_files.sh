#!/bin/sh
# Inside the image build: Prometheus, promtool and the few files that they need, gathered in a folder that becomes the
# image's root. No shell, no package manager, no web page.
#
#   prometheus_files.sh TARGET
set -eu
target=$1
command -v prometheus || {
  apt-get update
  apt-get install -y --no-install-recommends prometheus ca-certificates
}
mkdir -p "$target/usr/bin" "$target/etc/ssl/certs"
for program in prometheus promtool; do
  cp "/usr/bin/$program" "$target/usr/bin/"
  # What it links to, under the very names that it links to it by.
  ldd "/usr/bin/$program" | grep -o '/[^ ]*' | xargs cp --parents --dereference --update --target-directory "$target"
done
cp /etc/ssl/certs/ca-certificates.crt "$target/etc/ssl/certs/"
chroot "$target" /usr/bin/prometheus --version
