#!/bin/sh
# Made the *.pem files here, for the TLS tests of the sender. Valid for 100 years; run it again to replace them all.
#   ca.pem                    the only authority that the tests trust
#   right.pem                 key and certificate for receiver.test and 127.0.0.1, by ca
#   expired.pem               the same, but over since 2001
#   not-yet-valid.pem         the same, but valid only from 2100 on
#   client-only.pem           the same, but for clients (extendedKeyUsage)
#   name-constraints.pem      the same, by an authority under ca that may not sign for that name; with its chain
#   missing-intermediate.pem  the same, by an authority under ca; without its chain
#   self-signed.pem           for receiver.test, by nobody
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
mkdir "$work/issued"
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
names="subjectAltName=DNS:receiver.test,IP:127.0.0.1"

# request NAME SUBJECT: a key, and what is to be signed
request() {
  # shellcheck disable=SC2086
  openssl req $key -keyout "$work/$1.key" -out "$work/$1.csr" -subj "/CN=$2"
}

# sign NAME AUTHORITY START END EXTENSIONS: a certificate for NAME's request; several extensions with \n between them
sign() {
  : >"$work/index"
  cat >"$work/ca.conf" <<CONF
[ca]
default_ca = test
[test]
database = $work/index
new_certs_dir = $work/issued
certificate = $work/$2.crt
private_key = $work/$2.key
default_md = sha256
rand_serial = yes
unique_subject = no
policy = any
[any]
commonName = supplied
[extensions]
$(printf '%b' "$5")
CONF
  openssl ca -batch -notext -config "$work/ca.conf" -extensions extensions \
    -in "$work/$1.csr" -out "$work/$1.crt" -startdate "$3" -enddate "$4"
}

# receiver NAME AUTHORITY START END [EXTENSIONS]: NAME.pem, for receiver.test, with the receivers' key
receiver() {
  cp "$work/receiver.key" "$work/$1.key"
  cp "$work/receiver.csr" "$work/$1.csr"
  sign "$1" "$2" "$3" "$4" "$names${5:-}"
  cat "$work/$1.key" "$work/$1.crt" >"$work/$1.pem"
}

from=20250101000000Z
until=21250101000000Z
# shellcheck disable=SC2086
{
  openssl req -x509 $key -keyout "$work/ca.key" -out "$work/ca.crt" -days 36500 -subj "/CN=Fluxhook test CA"
  openssl req -x509 $key -keyout "$work/self.key" -out "$work/self.crt" -days 36500 -subj "/CN=receiver.test" -addext "$names"
}
request receiver receiver.test
request below "Fluxhook test CA below"
request narrow "Fluxhook test CA for other names"
sign below ca $from $until 'basicConstraints=critical,CA:TRUE'
sign narrow ca $from $until 'basicConstraints=critical,CA:TRUE\nnameConstraints=critical,permitted;DNS:other.test'

receiver right ca $from $until
receiver expired ca 20000101000000Z 20010101000000Z
receiver not-yet-valid ca 21000101000000Z $until
receiver client-only ca $from $until '\nextendedKeyUsage=clientAuth'
receiver missing-intermediate below $from $until
receiver name-constraints narrow $from $until
cat "$work/narrow.crt" >>"$work/name-constraints.pem"
cat "$work/self.key" "$work/self.crt" >"$work/self-signed.pem"
cp "$work/ca.crt" "$work/ca.pem"
mv "$work"/*.pem .
