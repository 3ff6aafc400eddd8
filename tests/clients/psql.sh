#!/usr/bin/env bash
# PostgreSQL's own client with the application's connection: verified TLS works, no TLS and a wrong password do not.
set -uo pipefail
if [[ -z ${ConnectionStrings__DefaultConnection:-} ]]; then
    echo "not set: ConnectionStrings__DefaultConnection"
    exit 77
fi
command -v psql >/dev/null || { echo "psql is not installed"; exit 77; }
field() { # Npgsql's connection string: Key=Value;Key=Value
    tr ';' '\n' <<<"$ConnectionStrings__DefaultConnection" | sed -n "s/^ *$1 *= *//Ip" | head -n 1
}
PGHOST=$(field Host) PGPORT=$(field Port) PGDATABASE=$(field Database) PGUSER=$(field Username) PGPASSWORD=$(field Password)
PGSSLROOTCERT=$(field 'Root Certificate') PGCONNECT_TIMEOUT=10
export PGHOST PGPORT PGDATABASE PGUSER PGPASSWORD PGSSLROOTCERT PGCONNECT_TIMEOUT
: "${PGSSLROOTCERT:=${SSL_CERT_FILE:-}}"
ask() { PGSSLMODE=$1 psql --no-psqlrc --tuples-only --no-align --command "$2" 2>&1; }

seen=$(ask verify-full 'SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()') || { echo "${seen%%$'\n'*}"; exit 1; }
[[ $seen == t\|TLSv1.* ]] || { echo "the connection is not by TLS: $seen"; exit 1; }
if plain=$(ask disable 'SELECT 1'); then echo "a connection without TLS was let in"; exit 1; fi
[[ $plain == *"no encryption"* || $plain == *"SSL"* || $plain == *pg_hba* ]] || { echo "without TLS: ${plain%%$'\n'*}"; exit 1; }
if PGPASSWORD=wrong ask verify-full 'SELECT 1' >/dev/null; then echo "a wrong password was let in"; exit 1; fi
super=$(ask verify-full 'SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = current_user')
[[ $super == f ]] || { echo "the application is more than a user: $super"; exit 1; }
echo "verify-full with ${seen#t|}, refused without TLS and with a wrong password, no superuser"
