-- The centre knows who belongs where, and nothing else of anybody.

CREATE TABLE "Members" (
    "Email"     text PRIMARY KEY CHECK ("Email" = lower("Email") AND length("Email") BETWEEN 3 AND 254),
    "Name"      text NOT NULL CHECK (length("Name") BETWEEN 1 AND 200),
    "Region"    text NOT NULL CHECK ("Region" ~ '^[a-z][a-z0-9-]{0,29}$'),
    "IsActive"  boolean NOT NULL DEFAULT true,
    -- The number of the region's message that was applied last: an older one that comes late changes nothing.
    "Sequence"  bigint NOT NULL,
    "ChangedAt" timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE "Sessions" (
    "Id"        text PRIMARY KEY,
    "Email"     text NOT NULL,
    "Name"      text NOT NULL,
    "Roles"     text[] NOT NULL DEFAULT '{}',
    "IdToken"   text,
    "CreatedAt" timestamptz NOT NULL DEFAULT now(),
    "ExpiresAt" timestamptz NOT NULL
);
