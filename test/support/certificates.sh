#!/bin/sh
# Made the *.pem files here, for the TLS tests of the sender. Valid for 100 years; run it again to replace them all.
#   ca.pem           the only authority that the tests trust
#   right.pem        key and certificate for receiver.test and 127.0.0.1, by ca
#   expired.pem      the same, but over since 2001
#   self-signed.pem  for receiver.test, by nobody
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
names="subjectAltName=DNS:receiver.test,IP:127.0.0.1"

# shellcheck disable=SC2086
{
  openssl req -x509 $key -keyout "$work/ca.key" -out ca.pem -days 36500 -subj "/CN=Fluxhook test CA"
  openssl req -x509 $key -keyout "$work/self.key" -out "$work/self.crt" -days 36500 -subj "/CN=receiver.test" -addext "$names"
  openssl req $key -keyout "$work/right.key" -out "$work/right.csr" -subj "/CN=receiver.test"
}
touch "$work/index"
cat >"$work/ca.conf" <<CONF
[ca]
default_ca = test
[test]
database = $work/index
new_certs_dir = $work
certificate = ca.pem
private_key = $work/ca.key
default_md = sha256
rand_serial = yes
unique_subject = no
policy = any
[any]
commonName = supplied
[names]
$names
CONF
sign() {
  openssl ca -batch -notext -config "$work/ca.conf" -extensions names -in "$work/right.csr" -out "$work/$1.crt" -startdate "$2" -enddate "$3"
  cat "$work/right.key" "$work/$1.crt" >"$1.pem"
}
sign right 20250101000000Z 21250101000000Z
sign expired 20000101000000Z 20010101000000Z
cat "$work/self.key" "$work/self.crt" >self-signed.pem
