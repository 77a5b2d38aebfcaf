#!/bin/sh
# Makes in the folder $1 what is missing of the stack's secrets; what is there stays.
# Readable for the owner and its group (Redis, PostgreSQL, API); Grafana's password for all.
set -eu
cd "$1"
umask 027

write() { # NAME: stdin becomes the file, whole or not at all
    cat >"$1.new"
    mv -f "$1.new" "$1"
}

random() {
    head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

for name in cache-password ledger-password database-password api-key key-pepper grafana-password; do
    if [ ! -s "$name" ]; then random | write "$name"; fi
done
chmod 444 grafana-password

printf 'postgresql://ragrelay:%s@postgres:5432/ragrelay\n' "$(cat database-password)" | write database-url

for store in cache ledger; do
    printf 'requirepass %s\n' "$(cat $store-password)" | write $store.conf
    printf 'redis://:%s@redis-%s:6379/0\n' "$(cat $store-password)" $store | write $store-url
done
