-- The fence between tenants. README.md ("How tenants are fenced") says why it is made so.
--
-- A transaction names no tenant: it shows a secret, in the setting app.ticket. Only its SHA-256 is kept, in guard.tickets,
-- which the application's role can neither read nor write. A policy asks tenant(), and tenant() asks that table. So a
-- setting that somebody made up opens nothing, whoever sets it.

CREATE SCHEMA guard;

CREATE TABLE guard.tenants (
    id         uuid PRIMARY KEY,
    account    text NOT NULL UNIQUE CHECK (account ~ '^[a-z0-9][a-z0-9-]{1,39}$'),
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    status     text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'active', 'suspended')),
    plan       text NOT NULL DEFAULT 'none' CHECK (length(plan) <= 40),
    expires_at timestamptz,
    features   text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    CHECK (status <> 'active' OR expires_at IS NOT NULL)
);

-- Who may sign in. The verifier is the SHA-256 of what Argon2id makes of the password: the application derives, this table
-- compares, so neither alone is enough to sign in as somebody.
CREATE TABLE guard.logins (
    tenant_id    uuid NOT NULL REFERENCES guard.tenants ON DELETE CASCADE,
    email        text NOT NULL CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254),
    person       uuid NOT NULL UNIQUE,
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    role         text NOT NULL CHECK (role IN ('admin', 'member')),
    active       boolean NOT NULL DEFAULT true,
    salt         bytea NOT NULL CHECK (length(salt) = 16),
    verifier     bytea NOT NULL CHECK (length(verifier) = 32),
    failures     integer NOT NULL DEFAULT 0,
    locked_until timestamptz,
    PRIMARY KEY (tenant_id, email)
);

CREATE TABLE guard.tickets (
    hash       bytea PRIMARY KEY CHECK (length(hash) = 32),
    tenant_id  uuid NOT NULL REFERENCES guard.tenants ON DELETE CASCADE,
    kind       text NOT NULL CHECK (kind IN ('person', 'device', 'registration')),
    subject    uuid NOT NULL,
    role       text NOT NULL DEFAULT '',
    uses_left  integer CHECK (uses_left >= 0),
    family     uuid,
    expires_at timestamptz
);
CREATE INDEX ON guard.tickets (tenant_id, subject);
CREATE INDEX ON guard.tickets (family) WHERE family IS NOT NULL;
CREATE INDEX ON guard.tickets (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE guard.refreshes (
    hash       bytea PRIMARY KEY CHECK (length(hash) = 32),
    family     uuid NOT NULL,
    tenant_id  uuid NOT NULL REFERENCES guard.tenants ON DELETE CASCADE,
    person     uuid NOT NULL,
    used_at    timestamptz,
    expires_at timestamptz NOT NULL
);
CREATE INDEX ON guard.refreshes (family);
CREATE INDEX ON guard.refreshes (expires_at);

-- What Management is still to be told: a tenant that asks to be let in.
CREATE TABLE guard.outbox (
    tenant_id uuid PRIMARY KEY REFERENCES guard.tenants ON DELETE CASCADE,
    email     text NOT NULL,
    attempts  integer NOT NULL DEFAULT 0,
    next_at   timestamptz NOT NULL DEFAULT now()
);

-- Makes the salts of people who are not there, so that asking for a salt tells nobody who is.
CREATE TABLE guard.secret (one boolean PRIMARY KEY DEFAULT true CHECK (one), pepper bytea NOT NULL);
INSERT INTO guard.secret (pepper) VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

-- The hash of the secret that this transaction shows.
CREATE FUNCTION guard.shown() RETURNS bytea LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT sha256(convert_to(current_setting('app.ticket', true), 'UTF8')) $$;

-- The tenant of the shown secret, if it is one of these kinds, still good, and the tenant has a licence. Else null, and
-- nothing equals null: no policy lets anything through.
CREATE FUNCTION tenant(VARIADIC kinds text[]) RETURNS uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.tenant_id FROM guard.tickets t JOIN guard.tenants n ON n.id = t.tenant_id
    WHERE t.hash = guard.shown() AND t.kind = ANY (kinds) AND (t.expires_at IS NULL OR t.expires_at > now())
      AND n.status = 'active' AND n.expires_at > now()
$$;

-- Who shows it: a person, a device, a registration key.
CREATE FUNCTION subject() RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT t.subject FROM guard.tickets t WHERE t.hash = guard.shown() $$;

-- Shows a secret for the rest of the transaction and tells what it is. A convenience: setting app.ticket does the same.
CREATE FUNCTION enter(secret text, OUT state text, OUT kind text, OUT tenant_id uuid, OUT subject uuid, OUT role text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('app.ticket', secret, true);
    SELECT CASE WHEN n.status = 'pending' THEN 'pending' WHEN n.status <> 'active' THEN 'suspended'
                WHEN n.expires_at <= now() THEN 'expired' ELSE 'good' END,
           t.kind, t.tenant_id, t.subject, t.role
      INTO state, kind, tenant_id, subject, role
      FROM guard.tickets t JOIN guard.tenants n ON n.id = t.tenant_id
     WHERE t.hash = guard.shown() AND (t.expires_at IS NULL OR t.expires_at > now());
    state := coalesce(state, 'unknown');
END $$;

-- Takes everything in guard, and the history of migrations, from everybody but the owner. Each migration ends with it:
-- what an owner makes is by default readable and writable for the application.
CREATE FUNCTION guard.close() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held record;
    who text;
BEGIN
    FOR held IN
        SELECT 'SCHEMA guard' AS thing, a.grantee FROM pg_namespace n, aclexplode(n.nspacl) a
         WHERE n.nspname = 'guard' AND a.grantee <> n.nspowner
        UNION SELECT format('TABLE guard.%I', c.relname), a.grantee
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
         WHERE n.nspname = 'guard' AND c.relkind IN ('r', 'v', 'p') AND a.grantee <> c.relowner
        UNION SELECT format('SEQUENCE guard.%I', c.relname), a.grantee
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
         WHERE n.nspname = 'guard' AND c.relkind = 'S' AND a.grantee <> c.relowner
    LOOP
        who := CASE WHEN held.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(held.grantee)) END;
        EXECUTE format('REVOKE ALL ON %s FROM %s', held.thing, who);
    END LOOP;
    FOR held IN
        SELECT DISTINCT a.grantee FROM pg_class c, aclexplode(c.relacl) a
         WHERE c.oid = 'public."SchemaMigrations"'::regclass AND a.grantee <> c.relowner AND a.grantee <> 0
    LOOP
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON public."SchemaMigrations" FROM %I', pg_get_userbyid(held.grantee));
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION guard.close(), guard.shown() FROM PUBLIC;

SELECT guard.close();
