-- Management's own database: who asked to be let in, what they were given, and who gave it. It is not a tenant's: no row of
-- a tenant's own data comes here, and only operators and Cloud's internal calls read it.

CREATE TABLE tenants (
    id           uuid PRIMARY KEY,
    account      text NOT NULL UNIQUE CHECK (length(account) BETWEEN 2 AND 40),
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    email        text NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    requested_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE licences (
    tenant_id  uuid PRIMARY KEY REFERENCES tenants ON DELETE CASCADE,
    status     text NOT NULL CHECK (status IN ('active', 'suspended')),
    plan       text NOT NULL CHECK (length(plan) BETWEEN 1 AND 40),
    expires_at timestamptz NOT NULL,
    features   text[] NOT NULL DEFAULT '{}',
    -- Whether Cloud took the word that this changed.
    told       boolean NOT NULL DEFAULT false,
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON licences (told) WHERE NOT told;

CREATE TABLE acts (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    operator  text NOT NULL,
    act       text NOT NULL,
    tenant_id uuid,
    detail    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX ON acts (tenant_id, id);

CREATE TABLE webhook_receipts (
    signature text PRIMARY KEY CHECK (length(signature) <= 100),
    at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON webhook_receipts (at);
