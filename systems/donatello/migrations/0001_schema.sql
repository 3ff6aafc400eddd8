-- Tables and columns are named as in the architecture document. What must never be wrong is a constraint here, whatever
-- the program does.

CREATE TABLE organizations (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    domain     text NOT NULL CHECK (domain ~ '^[a-z0-9][a-z0-9.-]*\.[a-z]{2,}$'),
    is_active  boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX organizations_domain ON organizations (domain) WHERE is_active;

-- Prompts of a department go to providers in these regions and to no others.
CREATE TABLE departments (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organizations,
    name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    code            text NOT NULL CHECK (code ~ '^[A-Z0-9][A-Z0-9-]{0,19}$'),
    profile         text NOT NULL DEFAULT 'balanced' CHECK (profile IN ('balanced', 'cost', 'quality')),
    regions         text[] NOT NULL DEFAULT '{australiaeast,australiasoutheast}' CHECK (cardinality(regions) BETWEEN 1 AND 10),
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, code)
);

CREATE TABLE users (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organizations,
    department_id   uuid NOT NULL REFERENCES departments,
    subject         text UNIQUE,
    email           text NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    display_name    text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 200),
    role            text NOT NULL CHECK (role IN ('super_admin', 'org_admin', 'dept_manager', 'power_user', 'standard_user')),
    -- Given here by an administrator; otherwise the role follows the directory's groups at each sign-in.
    role_assigned   boolean NOT NULL DEFAULT false,
    is_active       boolean NOT NULL DEFAULT true,
    last_login_at   timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_email ON users (lower(email));
CREATE INDEX users_department ON users (department_id);

-- A session is a row, so that it can be ended from here. The hash is keyed: no cookie can be made from the table.
CREATE TABLE user_sessions (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id        uuid NOT NULL REFERENCES users,
    session_hash   text NOT NULL UNIQUE,
    device_info    text NOT NULL DEFAULT '' CHECK (length(device_info) <= 200),
    id_token       text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    last_used_at   timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL,
    revoked        boolean NOT NULL DEFAULT false,
    revoked_at     timestamptz,
    revoked_reason text,
    CHECK (revoked = (revoked_at IS NOT NULL))
);
CREATE INDEX user_sessions_user ON user_sessions (user_id, created_at) WHERE NOT revoked;

-- Money is in Australian dollars with two decimals; prices are whole cents, so that sums here are exact.
CREATE TABLE department_budgets (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    department_id      uuid NOT NULL UNIQUE REFERENCES departments,
    monthly_budget_aud numeric(10, 2) NOT NULL CHECK (monthly_budget_aud >= 0),
    current_spend_aud  numeric(10, 2) NOT NULL DEFAULT 0 CHECK (current_spend_aud >= 0),
    reserved_aud       numeric(10, 2) NOT NULL DEFAULT 0 CHECK (reserved_aud >= 0),
    reset_date         date NOT NULL DEFAULT (date_trunc('month', now()) + interval '1 month')::date,
    enforcement_mode   varchar(10) NOT NULL DEFAULT 'hard' CHECK (enforcement_mode IN ('hard', 'soft', 'warn')),
    last_reset_at      timestamptz NOT NULL DEFAULT now()
);

-- Once a threshold and period; 80, 90, 100 per cent, and 101 for work let through over the budget in mode `warn`.
CREATE TABLE budget_alerts (
    department_id uuid NOT NULL REFERENCES departments,
    period        date NOT NULL,
    threshold     integer NOT NULL CHECK (threshold IN (80, 90, 100, 101)),
    raised_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (department_id, period, threshold)
);

CREATE TABLE model_providers (
    id                 varchar(50) PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]*$'),
    provider_name      text NOT NULL,
    model_name         text NOT NULL,
    title              text NOT NULL,
    region             text NOT NULL,
    is_active          boolean NOT NULL DEFAULT true,
    is_ai              boolean NOT NULL,
    commercial_use     boolean NOT NULL,
    cost_per_image_aud numeric(10, 4) NOT NULL CHECK (cost_per_image_aud >= 0 AND cost_per_image_aud * 100 = trunc(cost_per_image_aud * 100)),
    sla_percentage     numeric(5, 2) NOT NULL CHECK (sla_percentage BETWEEN 0 AND 100),
    quality            integer NOT NULL CHECK (quality BETWEEN 0 AND 100),
    typical_ms         integer NOT NULL CHECK (typical_ms > 0),
    timeout_seconds    integer NOT NULL DEFAULT 60 CHECK (timeout_seconds BETWEEN 1 AND 60)
);

-- The circuit breaker and what is known of a model's past, shared by all workers.
CREATE TABLE provider_health (
    model_id  varchar(50) PRIMARY KEY REFERENCES model_providers,
    state     text NOT NULL DEFAULT 'CLOSED' CHECK (state IN ('CLOSED', 'OPEN', 'HALF_OPEN')),
    failures  integer NOT NULL DEFAULT 0,
    trials    integer NOT NULL DEFAULT 0,
    opened_at timestamptz,
    calls     bigint NOT NULL DEFAULT 0,
    successes bigint NOT NULL DEFAULT 0,
    spent_ms  bigint NOT NULL DEFAULT 0
);

-- Whether a worker has what it needs to call a model: told by the workers at their start, kept for who asks.
CREATE TABLE provider_configs (
    model_id  varchar(50) PRIMARY KEY REFERENCES model_providers,
    available boolean NOT NULL,
    note      text NOT NULL DEFAULT '',
    told_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE generations (
    id                 uuid PRIMARY KEY,
    user_id            uuid NOT NULL REFERENCES users,
    department_id      uuid NOT NULL REFERENCES departments,
    idempotency_key    text NOT NULL CHECK (length(idempotency_key) BETWEEN 8 AND 100),
    prompt_encrypted   text NOT NULL,
    asked_for          jsonb NOT NULL,
    status             text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    model_provider     text,
    model_name         text,
    image_url          text,
    cost_aud           numeric(10, 4),
    reserved_aud       numeric(10, 2) NOT NULL CHECK (reserved_aud >= 0),
    generation_time_ms integer,
    error_message      text,
    is_deleted         boolean NOT NULL DEFAULT false,
    created_at         timestamptz NOT NULL DEFAULT now(),
    completed_at       timestamptz,
    deleted_at         timestamptz,
    metadata           jsonb NOT NULL DEFAULT '{}',
    UNIQUE (user_id, idempotency_key),
    CHECK (status <> 'completed' OR (completed_at IS NOT NULL AND image_url IS NOT NULL AND cost_aud IS NOT NULL)),
    -- What has ended holds no reservation.
    CHECK (status IN ('pending', 'processing') OR reserved_aud = 0)
);
CREATE INDEX generations_user ON generations (user_id, created_at DESC);
CREATE INDEX generations_department ON generations (department_id, created_at DESC);
CREATE INDEX generations_image ON generations (image_url) WHERE image_url IS NOT NULL;

CREATE TABLE generation_metadata (
    generation_id           uuid PRIMARY KEY REFERENCES generations,
    prompt_complexity_score double precision NOT NULL CHECK (prompt_complexity_score BETWEEN 0 AND 1),
    selected_model_reason   jsonb NOT NULL,
    fallback_model          text,
    retry_count             integer NOT NULL DEFAULT 0
);

-- The queue. A job belongs to whoever holds its lease; every write of a worker names the lease, so that one who lost it
-- changes nothing.
CREATE TABLE jobs (
    generation_id uuid PRIMARY KEY REFERENCES generations,
    step          text NOT NULL DEFAULT 'choose' CHECK (step IN ('choose', 'call', 'settle', 'done')),
    candidates    text[] NOT NULL DEFAULT '{}',
    prices        bigint[] NOT NULL DEFAULT '{}',
    place         integer NOT NULL DEFAULT 0,
    attempts      integer NOT NULL DEFAULT 0,
    retries       integer NOT NULL DEFAULT 0,
    -- How often a worker died holding it: what kills workers is given up in the end.
    deaths        integer NOT NULL DEFAULT 0,
    outside_id    text,
    image_hash    text,
    call_ms       integer,
    stand_in      boolean NOT NULL DEFAULT false,
    not_before    timestamptz NOT NULL DEFAULT now(),
    lease         uuid,
    leased_until  timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX jobs_waiting ON jobs (not_before) WHERE step <> 'done';

-- What a person sees of the progress, in order.
CREATE TABLE generation_events (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    generation_id uuid NOT NULL REFERENCES generations,
    at            timestamptz NOT NULL DEFAULT now(),
    kind          text NOT NULL,
    detail        jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX generation_events_generation ON generation_events (generation_id, id);
CREATE INDEX generation_events_at ON generation_events (at);

-- One charge a generation: the constraint, not the program, keeps it from being charged twice.
CREATE TABLE cost_events (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    generation_id uuid NOT NULL UNIQUE REFERENCES generations,
    department_id uuid NOT NULL REFERENCES departments,
    user_id       uuid NOT NULL REFERENCES users,
    model_used    varchar(50) NOT NULL,
    cost_aud      numeric(10, 4) NOT NULL CHECK (cost_aud >= 0),
    "timestamp"   timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')
);
CREATE INDEX cost_events_department ON cost_events (department_id, "timestamp");

-- Images by the hash of their bytes, while no blob store is configured.
CREATE TABLE images (
    hash       text PRIMARY KEY CHECK (hash ~ '^[0-9a-f]{64}$'),
    bytes      bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The record of acts. Rows are only ever added: the triggers refuse all else, and their functions belong to the schema's
-- owner, as whom the program never runs. Each row carries the hash of the one before it, so that a gap shows.
CREATE TABLE audit_logs (
    sequence      bigint PRIMARY KEY,
    id            uuid NOT NULL UNIQUE,
    "timestamp"   timestamptz NOT NULL,
    event_type    text NOT NULL CHECK (event_type IN ('authentication', 'generation', 'refusal', 'cost', 'administration', 'access', 'security')),
    user_id       uuid,
    user_email    text NOT NULL DEFAULT '',
    action        text NOT NULL,
    resource_type text NOT NULL,
    resource_id   uuid,
    ip_address    text NOT NULL DEFAULT '',
    user_agent    text NOT NULL DEFAULT '',
    request_id    uuid NOT NULL,
    status        text NOT NULL CHECK (status IN ('success', 'failure')),
    error_message text,
    metadata      jsonb NOT NULL DEFAULT '{}',
    department_id uuid,
    previous      text NOT NULL,
    hash          text NOT NULL
);
CREATE INDEX audit_logs_user ON audit_logs (user_id, sequence);
CREATE INDEX audit_logs_time ON audit_logs ("timestamp");
CREATE INDEX audit_logs_event ON audit_logs (event_type, sequence);
CREATE INDEX audit_logs_resource ON audit_logs (resource_id);

CREATE FUNCTION audit_chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last record;
BEGIN
    -- One writer at a time, to the end of its transaction: the chain has no forks.
    PERFORM pg_advisory_xact_lock(7308604897068083558);
    SELECT sequence, hash INTO last FROM audit_logs ORDER BY sequence DESC LIMIT 1;
    NEW.sequence := coalesce(last.sequence, 0) + 1;
    NEW."timestamp" := clock_timestamp();
    NEW.previous := coalesce(last.hash, '');
    NEW.hash := encode(sha256(convert_to(concat_ws('|', NEW.previous, NEW.sequence, NEW.id, extract(epoch FROM NEW."timestamp"),
        NEW.event_type, NEW.user_id, NEW.user_email, NEW.action, NEW.resource_type, NEW.resource_id, NEW.ip_address,
        NEW.user_agent, NEW.request_id, NEW.status, NEW.error_message, NEW.metadata, NEW.department_id), 'UTF8')), 'hex');
    RETURN NEW;
END $$;
CREATE TRIGGER audit_chain BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION audit_chain();

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit record is only added to' USING ERRCODE = 'insufficient_privilege', CONSTRAINT = 'audit_append_only';
END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit_logs FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

-- The first row whose hash does not follow from itself and the row before; no row when the record is whole.
CREATE VIEW audit_breaks AS
SELECT a.sequence FROM audit_logs a LEFT JOIN audit_logs p ON p.sequence = a.sequence - 1
WHERE a.previous <> coalesce(p.hash, '') OR (a.sequence > 1 AND p.sequence IS NULL)
   OR a.hash <> encode(sha256(convert_to(concat_ws('|', a.previous, a.sequence, a.id, extract(epoch FROM a."timestamp"),
        a.event_type, a.user_id, a.user_email, a.action, a.resource_type, a.resource_id, a.ip_address,
        a.user_agent, a.request_id, a.status, a.error_message, a.metadata, a.department_id), 'UTF8')), 'hex');
