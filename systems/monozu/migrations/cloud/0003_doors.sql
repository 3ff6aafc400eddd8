-- The doors in the fence: functions of the owner, each of which does one thing for whoever shows the right secret.

-- A new tenant, not let in yet, with its first administrator; Management is to be told.
CREATE FUNCTION register_tenant(new_id uuid, new_account text, new_name text, person uuid, new_email text, person_name text, new_salt bytea, derived bytea)
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, guard, pg_temp AS $$
BEGIN
    INSERT INTO guard.tenants (id, account, name) VALUES (new_id, new_account, new_name);
    INSERT INTO guard.logins (tenant_id, email, person, name, role, salt, verifier)
        VALUES (new_id, new_email, person, person_name, 'admin', new_salt, sha256(derived));
    INSERT INTO guard.outbox (tenant_id, email) VALUES (new_id, new_email);
END $$;

-- The salt of a login; of one that is not there a lasting answer that looks the same.
CREATE FUNCTION login_salt(of_account text, of_email text) RETURNS bytea
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(
        (SELECT l.salt FROM guard.logins l JOIN guard.tenants n ON n.id = l.tenant_id
          WHERE n.account = of_account AND l.email = of_email),
        (SELECT substring(sha256(s.pepper || sha256(convert_to(of_account || '/' || of_email, 'UTF8'))) FROM 1 FOR 16) FROM guard.secret s))
$$;

-- Signs somebody in: on success the ticket and the refresh token, which the caller made, are good. Ten wrong passwords
-- close a login for a minute.
CREATE FUNCTION sign_in(of_account text, of_email text, derived bytea, ticket text, refresh text,
    OUT outcome text, OUT tenant uuid, OUT person uuid, OUT role text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    login guard.logins;
    owner guard.tenants;
    family uuid := gen_random_uuid();
BEGIN
    SELECT n.* INTO owner FROM guard.tenants n WHERE n.account = of_account;
    SELECT l.* INTO login FROM guard.logins l WHERE l.tenant_id = owner.id AND l.email = of_email FOR UPDATE;
    IF login.person IS NULL OR NOT login.active THEN
        outcome := 'refused';
    ELSIF login.locked_until > now() THEN
        outcome := 'locked';
    ELSIF login.verifier <> sha256(derived) THEN
        UPDATE guard.logins l SET failures = l.failures + 1,
            locked_until = CASE WHEN (l.failures + 1) % 10 = 0 THEN now() + interval '1 minute' END
         WHERE l.tenant_id = login.tenant_id AND l.email = login.email;
        outcome := 'refused';
    ELSIF owner.status = 'pending' THEN
        outcome := 'tenant_pending';
    ELSIF owner.status <> 'active' THEN
        outcome := 'tenant_suspended';
    ELSIF owner.expires_at <= now() THEN
        outcome := 'licence_expired';
    ELSE
        UPDATE guard.logins l SET failures = 0, locked_until = NULL WHERE l.tenant_id = login.tenant_id AND l.email = login.email AND l.failures > 0;
        INSERT INTO guard.tickets (hash, tenant_id, kind, subject, role, family, expires_at)
            VALUES (sha256(convert_to(ticket, 'UTF8')), owner.id, 'person', login.person, login.role, family, now() + interval '60 min');
        INSERT INTO guard.refreshes (hash, family, tenant_id, person, expires_at)
            VALUES (sha256(convert_to(refresh, 'UTF8')), family, owner.id, login.person, now() + interval '7 days');
        PERFORM set_config('app.ticket', ticket, true);
        INSERT INTO public.users AS u (tenant_id, id, email, name, role, last_sign_in_at)
            VALUES (owner.id, login.person, login.email, login.name, login.role, now())
            ON CONFLICT ON CONSTRAINT users_pkey DO UPDATE SET last_sign_in_at = now();
        outcome := 'good'; tenant := owner.id; person := login.person; role := login.role;
    END IF;
END $$;

-- A refresh token is good once. One that comes a second time was stolen from, or by, whoever used it first: all of its
-- sign-in ends.
CREATE FUNCTION refresh(old text, ticket text, renewed text, OUT outcome text, OUT tenant uuid, OUT person uuid, OUT role text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found guard.refreshes;
    login guard.logins;
    owner guard.tenants;
BEGIN
    SELECT r.* INTO found FROM guard.refreshes r WHERE r.hash = sha256(convert_to(old, 'UTF8')) FOR UPDATE;
    IF found.hash IS NULL OR found.expires_at <= now() THEN
        outcome := 'refused';
        RETURN;
    END IF;
    IF found.used_at IS NOT NULL THEN
        DELETE FROM guard.tickets t WHERE t.family = found.family;
        DELETE FROM guard.refreshes r WHERE r.family = found.family;
        outcome := 'reused';
        RETURN;
    END IF;
    SELECT l.* INTO login FROM guard.logins l WHERE l.person = found.person AND l.active;
    SELECT n.* INTO owner FROM guard.tenants n WHERE n.id = found.tenant_id;
    IF login.person IS NULL OR owner.status <> 'active' OR owner.expires_at <= now() THEN
        outcome := 'refused';
        RETURN;
    END IF;
    UPDATE guard.refreshes r SET used_at = now() WHERE r.hash = found.hash;
    DELETE FROM guard.tickets t WHERE t.family = found.family;
    INSERT INTO guard.tickets (hash, tenant_id, kind, subject, role, family, expires_at)
        VALUES (sha256(convert_to(ticket, 'UTF8')), owner.id, 'person', login.person, login.role, found.family, now() + interval '60 min');
    INSERT INTO guard.refreshes (hash, family, tenant_id, person, expires_at)
        VALUES (sha256(convert_to(renewed, 'UTF8')), found.family, owner.id, login.person, found.expires_at);
    outcome := 'good'; tenant := owner.id; person := login.person; role := login.role;
END $$;

-- Ends the sign-in of the shown ticket.
CREATE FUNCTION sign_out() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ended uuid;
BEGIN
    SELECT t.family INTO ended FROM guard.tickets t WHERE t.hash = guard.shown() AND t.kind = 'person';
    DELETE FROM guard.tickets t WHERE t.family = ended;
    DELETE FROM guard.refreshes r WHERE r.family = ended;
END $$;

-- The tenant of a shown ticket of an administrator; else the act is refused.
CREATE FUNCTION guard.admin() RETURNS uuid LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who uuid := public.tenant('person');
BEGIN
    IF who IS NULL OR NOT EXISTS (SELECT FROM guard.tickets t WHERE t.hash = guard.shown() AND t.role = 'admin') THEN
        RAISE EXCEPTION 'this needs the ticket of an administrator' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN who;
END $$;

CREATE FUNCTION add_person(new_id uuid, new_email text, new_name text, new_role text, new_salt bytea, derived bytea)
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner uuid := guard.admin();
BEGIN
    INSERT INTO guard.logins (tenant_id, email, person, name, role, salt, verifier)
        VALUES (owner, new_email, new_id, new_name, new_role, new_salt, sha256(derived));
    INSERT INTO public.users (tenant_id, id, email, name, role) VALUES (owner, new_id, new_email, new_name, new_role);
END $$;

-- Changes what somebody may do; their sign-ins end, so that it counts at once.
CREATE FUNCTION change_person(who uuid, new_role text, new_active boolean) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner uuid := guard.admin();
BEGIN
    UPDATE guard.logins l SET role = new_role, active = new_active WHERE l.tenant_id = owner AND l.person = who;
    IF NOT FOUND THEN RETURN false; END IF;
    UPDATE public.users u SET role = new_role, active = new_active WHERE u.tenant_id = owner AND u.id = who;
    DELETE FROM guard.tickets t WHERE t.tenant_id = owner AND t.subject = who AND t.hash <> guard.shown();
    DELETE FROM guard.refreshes r WHERE r.tenant_id = owner AND r.person = who AND NOT new_active;
    RETURN true;
END $$;

CREATE FUNCTION issue_registration_key(key_id uuid, secret text, key_name text, uses integer, until timestamptz)
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner uuid := guard.admin();
BEGIN
    INSERT INTO public.registration_keys (tenant_id, id, name, expires_at) VALUES (owner, key_id, key_name, until);
    INSERT INTO guard.tickets (hash, tenant_id, kind, subject, uses_left, expires_at)
        VALUES (sha256(convert_to(secret, 'UTF8')), owner, 'registration', key_id, uses, until);
END $$;

-- How often a key of the tenant can still be used.
CREATE FUNCTION registration_uses(key_id uuid) RETURNS integer LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT t.uses_left FROM guard.tickets t WHERE t.subject = key_id AND t.kind = 'registration' AND t.tenant_id = public.tenant('person') $$;

-- With a registration key shown: a device, and the key it has from now on. False when the key is used up.
CREATE FUNCTION register_device(of_account text, device uuid, device_name text, secret text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner uuid := public.tenant('registration');
BEGIN
    UPDATE guard.tickets t SET uses_left = t.uses_left - 1
     WHERE t.hash = guard.shown() AND t.tenant_id = owner AND t.uses_left > 0
       AND EXISTS (SELECT FROM guard.tenants n WHERE n.id = owner AND n.account = of_account);
    IF NOT FOUND THEN RETURN false; END IF;
    INSERT INTO public.devices (tenant_id, id, name) VALUES (owner, device, device_name);
    INSERT INTO guard.tickets (hash, tenant_id, kind, subject) VALUES (sha256(convert_to(secret, 'UTF8')), owner, 'device', device);
    RETURN true;
END $$;

-- Ends the key of a device, or a registration key. Stolen or not, the next request with it is refused.
CREATE FUNCTION revoke(thing uuid) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner uuid := guard.admin();
    known boolean;
BEGIN
    UPDATE public.devices d SET status = 'revoked' WHERE d.tenant_id = owner AND d.id = thing;
    known := FOUND;
    DELETE FROM public.registration_keys k WHERE k.tenant_id = owner AND k.id = thing;
    known := known OR FOUND;
    DELETE FROM guard.tickets t WHERE t.tenant_id = owner AND t.subject = thing AND t.kind IN ('device', 'registration');
    RETURN known;
END $$;

-- The licence of the tenant whose secret is shown.
CREATE FUNCTION licence(OUT account text, OUT name text, OUT status text, OUT plan text, OUT expires_at timestamptz, OUT features text[])
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.account, n.name, n.status, n.plan, n.expires_at, n.features FROM guard.tenants n
     WHERE n.id = public.tenant('person', 'device')
$$;

-- What Management says of a tenant. False when there is none of this id.
CREATE FUNCTION apply_licence(of_tenant uuid, new_status text, new_plan text, until timestamptz, new_features text[])
    RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE guard.tenants n SET status = new_status, plan = new_plan, expires_at = until, features = new_features, changed_at = now()
     WHERE n.id = of_tenant;
    RETURN FOUND;
END $$;

-- Tenants that Management was not told of yet; each is put off a little, so that two senders do not tell twice at once.
CREATE FUNCTION outbox_take() RETURNS TABLE (tenant_id uuid, account text, name text, email text)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE guard.outbox o SET attempts = o.attempts + 1, next_at = now() + least(interval '1 second' * 2 ^ least(o.attempts, 6), interval '1 minute')
      FROM guard.tenants n
     WHERE n.id = o.tenant_id
       AND o.tenant_id IN (SELECT w.tenant_id FROM guard.outbox w WHERE w.next_at <= now() ORDER BY w.next_at LIMIT 20 FOR UPDATE SKIP LOCKED)
    RETURNING o.tenant_id, n.account, n.name, o.email
$$;
CREATE FUNCTION outbox_done(of_tenant uuid) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ DELETE FROM guard.outbox o WHERE o.tenant_id = of_tenant $$;

-- Removes what has expired.
CREATE FUNCTION sweep() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM guard.tickets t WHERE t.expires_at < now();
    DELETE FROM guard.refreshes r WHERE r.expires_at < now();
    DELETE FROM public.webhook_receipts w WHERE w.at < now() - interval '1 day'
$$;

REVOKE ALL ON FUNCTION guard.admin() FROM PUBLIC;
SELECT guard.close();
