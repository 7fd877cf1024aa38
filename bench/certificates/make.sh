#!/bin/sh
# Made the *.pem files here, for bench/tls.ts. Valid for 100 years; run it again to replace them all. Needs openssl 3.
#   ca.pem     the authority that both clients trust; its key is thrown away
#   net-N.pem  key and certificate for 127.0.N.1 to 127.0.N.250 and *.bench.test, by ca
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
new="-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500"

# shellcheck disable=SC2086
openssl req $new -keyout "$work/ca.key" -out ca.pem -subj "/CN=Fluxhook bench CA"
for net in 0 1 2 3; do
  names="DNS:*.bench.test"
  for host in $(seq 1 250); do names="$names,IP:127.0.$net.$host"; done
  # shellcheck disable=SC2086
  openssl req $new -CA ca.pem -CAkey "$work/ca.key" -keyout "$work/net.key" -out "$work/net.crt" \
    -subj "/CN=bench.test" -addext "subjectAltName=$names" -addext "basicConstraints=CA:FALSE"
  cat "$work/net.key" "$work/net.crt" >"net-$net.pem"
done
