-- What belongs to tenants. Every table has tenant_id, its policies, and FORCE: they hold for the tables' owner too.
-- The application never writes tenant_id: it is what the shown secret says.

CREATE TABLE users (
    tenant_id       uuid NOT NULL DEFAULT tenant('person'),
    id              uuid NOT NULL,
    email           text NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    role            text NOT NULL CHECK (role IN ('admin', 'member')),
    active          boolean NOT NULL DEFAULT true,
    last_sign_in_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, email)
);

CREATE TABLE sites (
    tenant_id uuid NOT NULL DEFAULT tenant('person'),
    id        uuid NOT NULL,
    name      text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    address   text NOT NULL DEFAULT '' CHECK (length(address) <= 500),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, name)
);

CREATE TABLE assets (
    tenant_id uuid NOT NULL DEFAULT tenant('person'),
    id        uuid NOT NULL,
    site_id   uuid,
    name      text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    kind      text NOT NULL DEFAULT '' CHECK (length(kind) <= 100),
    serial    text NOT NULL DEFAULT '' CHECK (length(serial) <= 100),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, site_id) REFERENCES sites (tenant_id, id)
);
CREATE INDEX ON assets (tenant_id, site_id);

CREATE TABLE incidents (
    tenant_id        uuid NOT NULL DEFAULT tenant('person'),
    id               uuid NOT NULL,
    asset_id         uuid,
    title            text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    description      text NOT NULL DEFAULT '' CHECK (length(description) <= 10000),
    severity         text NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    status           text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'acknowledged', 'resolved', 'closed')),
    opened_at        timestamptz NOT NULL DEFAULT now(),
    acknowledged_at  timestamptz,
    resolved_at      timestamptz,
    sla_response_due timestamptz NOT NULL,
    sla_resolve_due  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, asset_id) REFERENCES assets (tenant_id, id)
);
CREATE INDEX ON incidents (tenant_id, status);

-- The due times follow from the severity, whoever sets it; the times of acts are those of the acts.
CREATE FUNCTION incident_times() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer interval := CASE NEW.severity WHEN 'critical' THEN '15 min' WHEN 'high' THEN '1 h' WHEN 'medium' THEN '4 h' ELSE '8 h' END;
    mend interval := CASE NEW.severity WHEN 'critical' THEN '4 h' WHEN 'high' THEN '8 h' WHEN 'medium' THEN '24 h' ELSE '72 h' END;
BEGIN
    NEW.sla_response_due := NEW.opened_at + answer;
    NEW.sla_resolve_due := NEW.opened_at + mend;
    IF NEW.status <> 'open' THEN
        NEW.acknowledged_at := coalesce(NEW.acknowledged_at, now());
    END IF;
    NEW.resolved_at := CASE WHEN NEW.status IN ('resolved', 'closed') THEN coalesce(NEW.resolved_at, now()) END;
    RETURN NEW;
END $$;
CREATE TRIGGER incident_times BEFORE INSERT OR UPDATE ON incidents FOR EACH ROW EXECUTE FUNCTION incident_times();

CREATE TABLE registration_keys (
    tenant_id  uuid NOT NULL DEFAULT tenant('person'),
    id         uuid NOT NULL,
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE devices (
    tenant_id     uuid NOT NULL DEFAULT tenant('registration'),
    id            uuid NOT NULL,
    name          text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    status        text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked')),
    registered_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz,
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE ingest_events (
    tenant_id   uuid NOT NULL DEFAULT tenant('device'),
    id          bigint GENERATED ALWAYS AS IDENTITY,
    device_id   uuid NOT NULL DEFAULT subject(),
    kind        text NOT NULL CHECK (kind IN ('telemetry', 'log', 'security_alert')),
    at          timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    body        jsonb NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, device_id) REFERENCES devices (tenant_id, id)
);
CREATE INDEX ON ingest_events (tenant_id, device_id, id);

CREATE TABLE security_alerts (
    tenant_id       uuid NOT NULL DEFAULT tenant('device'),
    id              bigint GENERATED ALWAYS AS IDENTITY,
    device_id       uuid NOT NULL DEFAULT subject(),
    at              timestamptz NOT NULL,
    severity        text NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    title           text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    body            jsonb NOT NULL,
    acknowledged_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, device_id) REFERENCES devices (tenant_id, id)
);

-- A person sees and changes what the tenant has. The tenant is asked for once a statement: the sub-select makes it so.
DO $$
DECLARE
    fenced text;
BEGIN
    FOREACH fenced IN ARRAY ARRAY['users', 'sites', 'assets', 'incidents', 'registration_keys', 'devices', 'ingest_events', 'security_alerts'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', fenced);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', fenced);
        EXECUTE format('CREATE POLICY person ON %I USING (tenant_id = (SELECT tenant(''person''))) WITH CHECK (tenant_id = (SELECT tenant(''person'')))', fenced);
    END LOOP;
END $$;

-- A device adds what it saw and knows itself, nothing more; a registration key adds devices.
CREATE POLICY device_adds ON ingest_events FOR INSERT
    WITH CHECK (tenant_id = (SELECT tenant('device')) AND device_id = (SELECT subject()));
CREATE POLICY device_adds ON security_alerts FOR INSERT
    WITH CHECK (tenant_id = (SELECT tenant('device')) AND device_id = (SELECT subject()));
CREATE POLICY device_itself ON devices FOR SELECT
    USING (tenant_id = (SELECT tenant('device')) AND id = (SELECT subject()));
CREATE POLICY device_is_seen ON devices FOR UPDATE
    USING (tenant_id = (SELECT tenant('device')) AND id = (SELECT subject()))
    WITH CHECK (tenant_id = (SELECT tenant('device')) AND id = (SELECT subject()) AND status = 'active');
CREATE POLICY registration_adds ON devices FOR INSERT WITH CHECK (tenant_id = (SELECT tenant('registration')));

-- Of no tenant: what can be downloaded, and the webhooks that were taken already.
CREATE TABLE snaps (
    name         text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    version      text NOT NULL CHECK (version ~ '^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$'),
    sha256       text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    size         bigint NOT NULL CHECK (size BETWEEN 1 AND 4294967296),
    feature      text NOT NULL DEFAULT '' CHECK (length(feature) <= 40),
    published_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);

CREATE TABLE webhook_receipts (
    signature text PRIMARY KEY CHECK (length(signature) <= 100),
    at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON webhook_receipts (at);

SELECT guard.close();
