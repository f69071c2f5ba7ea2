#!/bin/sh
# make-secrets.sh FOLDER: an authority, certificates for both services and new tokens, as files in FOLDER and as Secrets in
# FOLDER/secrets.yaml. For trials and small installations: the certificates are valid for a year, and nothing renews them.
# Who has cert-manager or another authority makes the Secrets with that instead; README.md lists them.
set -eu
folder=${1:?a folder that does not exist yet}
namespace=visionsplit
umask 077
mkdir "$folder"
cd "$folder"

key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
# shellcheck disable=SC2086 # $key is a list of words
openssl req -x509 $key -keyout ca.key -out ca.crt -days 3650 -subj "/CN=visionsplit authority" 2>/dev/null
for service in encoder llm; do
  mkdir "$service"
  cp ca.crt "$service/ca.crt"
  name=visionsplit-$service
  names="DNS:$name,DNS:$name.$namespace,DNS:$name.$namespace.svc,DNS:$name.$namespace.svc.cluster.local"
  # shellcheck disable=SC2086
  openssl req $key -keyout "$service/tls.key" -out request.pem -subj "/CN=$name" \
    -addext "subjectAltName=$names" -addext "extendedKeyUsage=serverAuth,clientAuth" 2>/dev/null
  openssl x509 -req -in request.pem -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -copy_extensions copyall \
    -out "$service/tls.crt" 2>/dev/null
done
rm -f request.pem

mkdir applications encoders
echo "application $(openssl rand -hex 32)" >applications/tokens
echo "encoder $(openssl rand -hex 32) relay" >encoders/tokens

secret() { # NAME FOLDER
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\ndata:\n' "$1" "$namespace"
  for file in "$2"/*; do printf '  %s: %s\n' "${file##*/}" "$(base64 <"$file" | tr -d '\n')"; done
}
{
  secret visionsplit-encoder-tls encoder
  secret visionsplit-llm-tls llm
  secret visionsplit-applications applications
  secret visionsplit-encoders encoders
} >secrets.yaml
echo "now: kubectl apply -f $folder/secrets.yaml; callers need $folder/ca.crt and a line of $folder/applications/tokens"
