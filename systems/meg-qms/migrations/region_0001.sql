-- What a region keeps: its people and all of their data. What must never be wrong is a constraint here.

CREATE TABLE "Wards" (
    "Code" text PRIMARY KEY CHECK ("Code" ~ '^[A-Z0-9][A-Z0-9-]{0,19}$'),
    "Name" text NOT NULL CHECK (length("Name") BETWEEN 1 AND 100)
);

CREATE TABLE "Users" (
    "Id"           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "Subject"      text UNIQUE,
    "Email"        text NOT NULL CHECK (length("Email") BETWEEN 3 AND 254),
    "Name"         text NOT NULL CHECK (length("Name") BETWEEN 1 AND 200),
    "Roles"        text[] NOT NULL DEFAULT '{}' CHECK ("Roles" <@ ARRAY['staff', 'auditor', 'admin']),
    "IsActive"     boolean NOT NULL DEFAULT true,
    "LastSignInAt" timestamptz,
    "CreatedAt"    timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX "UX_Users_Email" ON "Users" (lower("Email"));

CREATE TABLE "Sessions" (
    "Id"         text PRIMARY KEY,
    "UserId"     bigint NOT NULL REFERENCES "Users" ("Id"),
    "IdToken"    text,
    "CreatedAt"  timestamptz NOT NULL DEFAULT now(),
    "LastSeenAt" timestamptz NOT NULL DEFAULT now(),
    "ExpiresAt"  timestamptz NOT NULL
);
CREATE INDEX "IX_Sessions_ExpiresAt" ON "Sessions" ("ExpiresAt");

-- Failed sign-ins at the site's directory, so that guessing is slow.
CREATE TABLE "SignInFailures" (
    "Name" text NOT NULL,
    "At"   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX "IX_SignInFailures" ON "SignInFailures" ("Name", "At");

-- Tokens of programs: the mobile app of a person, and the business intelligence of a site. Only fingerprints are kept.
CREATE TABLE "Tokens" (
    "Id"          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "UserId"      bigint NOT NULL REFERENCES "Users" ("Id"),
    "Name"        text NOT NULL CHECK (length("Name") BETWEEN 1 AND 100),
    "Scope"       text NOT NULL CHECK ("Scope" IN ('app', 'bi')),
    "Fingerprint" text NOT NULL UNIQUE,
    "CreatedAt"   timestamptz NOT NULL DEFAULT now(),
    "LastUsedAt"  timestamptz,
    "RevokedAt"   timestamptz
);

CREATE TABLE "Media" (
    "Address"     text PRIMARY KEY CHECK ("Address" ~ '^(question-photos|audit-photos|audit-audio|qip-photos|qip-audio|documents)/[0-9a-f]{64}\.[a-z0-9]{3,4}$'),
    "ContentType" text NOT NULL,
    "Bytes"       bigint NOT NULL CHECK ("Bytes" > 0),
    "UserId"      bigint NOT NULL REFERENCES "Users" ("Id"),
    "CreatedAt"   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE "Forms" (
    "Id"          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "Title"       text NOT NULL CHECK (length("Title") BETWEEN 1 AND 150),
    "Description" text NOT NULL DEFAULT '' CHECK (length("Description") <= 1000),
    "IsPublished" boolean NOT NULL DEFAULT false,
    "Version"     integer NOT NULL DEFAULT 1,
    "ChangedAt"   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE "Questions" (
    "Id"         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "FormId"     bigint NOT NULL REFERENCES "Forms" ("Id"),
    "Position"   integer NOT NULL,
    "Text"       text NOT NULL CHECK (length("Text") BETWEEN 1 AND 500),
    "Help"       text NOT NULL DEFAULT '' CHECK (length("Help") <= 500),
    "Kind"       text NOT NULL CHECK ("Kind" IN ('yes-no', 'number', 'choice', 'text', 'medicine')),
    "Weight"     integer NOT NULL DEFAULT 1 CHECK ("Weight" BETWEEN 1 AND 100),
    "IsCritical" boolean NOT NULL DEFAULT false,
    "Low"        double precision,
    "High"       double precision,
    "Choices"    text[] NOT NULL DEFAULT '{}',
    "Photo"      text REFERENCES "Media" ("Address"),
    "IsRetired"  boolean NOT NULL DEFAULT false,
    CHECK ("Kind" <> 'choice' OR cardinality("Choices") BETWEEN 2 AND 20)
);
CREATE INDEX "IX_Questions_Form" ON "Questions" ("FormId", "Position");

-- The id is the client's own, so that a submission which is sent again is the same submission.
CREATE TABLE "Submissions" (
    "Id"          uuid PRIMARY KEY,
    "FormId"      bigint NOT NULL REFERENCES "Forms" ("Id"),
    "FormVersion" integer NOT NULL,
    "WardCode"    text NOT NULL REFERENCES "Wards" ("Code"),
    "UserId"      bigint NOT NULL REFERENCES "Users" ("Id"),
    "Source"      text NOT NULL CHECK ("Source" IN ('web', 'app')),
    "AuditedOn"   date NOT NULL,
    "ReceivedAt"  timestamptz NOT NULL DEFAULT now(),
    "Notes"       text NOT NULL DEFAULT '' CHECK (length("Notes") <= 2000),
    "Reached"     integer NOT NULL CHECK ("Reached" >= 0),
    "Possible"    integer NOT NULL CHECK ("Possible" >= "Reached"),
    "Critical"    integer NOT NULL DEFAULT 0,
    "Digest"      text NOT NULL,
    "CheckedAt"   timestamptz
);
CREATE INDEX "IX_Submissions_Form" ON "Submissions" ("FormId", "AuditedOn");
CREATE INDEX "IX_Submissions_Received" ON "Submissions" ("ReceivedAt" DESC);

CREATE TABLE "Answers" (
    "SubmissionId" uuid NOT NULL REFERENCES "Submissions" ("Id"),
    "QuestionId"   bigint NOT NULL REFERENCES "Questions" ("Id"),
    "Value"        text NOT NULL CHECK (length("Value") <= 1000),
    "IsPassed"     boolean,
    "Note"         text NOT NULL DEFAULT '' CHECK (length("Note") <= 1000),
    PRIMARY KEY ("SubmissionId", "QuestionId")
);

CREATE TABLE "SubmissionMedia" (
    "SubmissionId" uuid NOT NULL REFERENCES "Submissions" ("Id"),
    "QuestionId"   bigint REFERENCES "Questions" ("Id"),
    "Address"      text NOT NULL REFERENCES "Media" ("Address"),
    UNIQUE NULLS NOT DISTINCT ("SubmissionId", "QuestionId", "Address")
);

-- What the feed was sent and what became of it; deleted by the maintenance after its time.
CREATE TABLE "SubmissionLogs" (
    "Id"           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "At"           timestamptz NOT NULL DEFAULT now(),
    "UserId"       bigint,
    "SubmissionId" text NOT NULL DEFAULT '',
    "Outcome"      text NOT NULL CHECK ("Outcome" IN ('taken', 'again', 'refused')),
    "Detail"       text NOT NULL DEFAULT ''
);
CREATE INDEX "IX_SubmissionLogs_At" ON "SubmissionLogs" ("At");

CREATE TABLE "Qips" (
    "Id"           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "Title"        text NOT NULL CHECK (length("Title") BETWEEN 1 AND 150),
    "Description"  text NOT NULL DEFAULT '' CHECK (length("Description") <= 2000),
    "WardCode"     text NOT NULL REFERENCES "Wards" ("Code"),
    "SubmissionId" uuid REFERENCES "Submissions" ("Id"),
    "OwnerId"      bigint REFERENCES "Users" ("Id"),
    "Status"       text NOT NULL DEFAULT 'plan' CHECK ("Status" IN ('plan', 'do', 'check', 'done')),
    "DueOn"        date,
    "Version"      integer NOT NULL DEFAULT 1,
    "CreatedAt"    timestamptz NOT NULL DEFAULT now(),
    "ChangedAt"    timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE "QipMedia" (
    "QipId"   bigint NOT NULL REFERENCES "Qips" ("Id"),
    "Address" text NOT NULL REFERENCES "Media" ("Address"),
    PRIMARY KEY ("QipId", "Address")
);
CREATE TABLE "QipNotes" (
    "Id"     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "QipId"  bigint NOT NULL REFERENCES "Qips" ("Id"),
    "UserId" bigint NOT NULL REFERENCES "Users" ("Id"),
    "At"     timestamptz NOT NULL DEFAULT now(),
    "Text"   text NOT NULL CHECK (length("Text") BETWEEN 1 AND 1000)
);

CREATE TABLE "Reports" (
    "Id"          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "Slug"        text NOT NULL UNIQUE CHECK ("Slug" ~ '^[a-z0-9][a-z0-9-]{1,59}$'),
    "Title"       text NOT NULL CHECK (length("Title") BETWEEN 1 AND 150),
    "Intro"       text NOT NULL DEFAULT '' CHECK (length("Intro") <= 2000),
    "FormId"      bigint NOT NULL REFERENCES "Forms" ("Id"),
    "FirstDay"    date NOT NULL,
    "LastDay"     date NOT NULL,
    "IsPublished" boolean NOT NULL DEFAULT false,
    CHECK ("FirstDay" <= "LastDay")
);

-- Every state of a form or a plan; number 1 of those that came without one is made by the maintenance.
CREATE TABLE "Revisions" (
    "Thing"  text NOT NULL CHECK ("Thing" IN ('form', 'qip')),
    "Key"    bigint NOT NULL,
    "Number" integer NOT NULL,
    "Body"   jsonb NOT NULL,
    "UserId" bigint REFERENCES "Users" ("Id"),
    "At"     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY ("Thing", "Key", "Number")
);

-- What the worker did. The queue itself is in redis; a job that redis lost is put there again from here.
CREATE TABLE "Jobs" (
    "Id"         uuid PRIMARY KEY,
    "Name"       text NOT NULL,
    "Subject"    text NOT NULL DEFAULT '',
    "Status"     text NOT NULL CHECK ("Status" IN ('queued', 'running', 'done', 'failed')),
    "Attempts"   integer NOT NULL DEFAULT 0,
    "Result"     text NOT NULL DEFAULT '',
    "EnqueuedAt" timestamptz NOT NULL DEFAULT now(),
    "StartedAt"  timestamptz,
    "EndedAt"    timestamptz
);
CREATE INDEX "IX_Jobs" ON "Jobs" ("Status", "EnqueuedAt");

-- Runs of the maintenance and of the backup that are worth knowing.
CREATE TABLE "MaintenanceRuns" (
    "Id"        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "StartedAt" timestamptz NOT NULL,
    "EndedAt"   timestamptz NOT NULL DEFAULT now(),
    "Deleted"   bigint NOT NULL,
    "Revised"   bigint NOT NULL
);

-- Letters that wait for the site's mail server, and what became of them.
CREATE TABLE "Mails" (
    "Id"        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "Recipient" text NOT NULL CHECK (length("Recipient") BETWEEN 3 AND 254),
    "Subject"   text NOT NULL,
    "Body"      text NOT NULL,
    "QipId"     bigint REFERENCES "Qips" ("Id"),
    "Status"    text NOT NULL DEFAULT 'waiting' CHECK ("Status" IN ('waiting', 'sent', 'bounced')),
    "Attempts"  integer NOT NULL DEFAULT 0,
    "NextAt"    timestamptz NOT NULL DEFAULT now(),
    "Detail"    text NOT NULL DEFAULT '',
    "CreatedAt" timestamptz NOT NULL DEFAULT now(),
    "EndedAt"   timestamptz
);
CREATE INDEX "IX_Mails_Waiting" ON "Mails" ("NextAt") WHERE "Status" = 'waiting';

-- What goes up to the centre, in order: name, e-mail address, home region and whether the record stands. Nothing else.
CREATE TABLE "Outbox" (
    "Id"          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "Email"       text NOT NULL,
    "Name"        text NOT NULL,
    "IsActive"    boolean NOT NULL,
    "CreatedAt"   timestamptz NOT NULL DEFAULT now(),
    "Attempts"    integer NOT NULL DEFAULT 0,
    "NextAt"      timestamptz NOT NULL DEFAULT now(),
    "DeliveredAt" timestamptz,
    "Refused"     boolean NOT NULL DEFAULT false,
    "Detail"      text NOT NULL DEFAULT ''
);
CREATE INDEX "IX_Outbox_Waiting" ON "Outbox" ("Id") WHERE "DeliveredAt" IS NULL AND NOT "Refused";

-- Each ticket of the centre opens one session.
CREATE TABLE "UsedTickets" (
    "Id"        text PRIMARY KEY,
    "ExpiresAt" timestamptz NOT NULL
);

-- The formulary as the site's integration engine sends it.
CREATE TABLE "Formulary" (
    "Code"      text PRIMARY KEY CHECK (length("Code") BETWEEN 1 AND 40),
    "Name"      text NOT NULL CHECK (length("Name") BETWEEN 1 AND 200),
    "Strength"  text NOT NULL DEFAULT '',
    "Form"      text NOT NULL DEFAULT '',
    "IsActive"  boolean NOT NULL DEFAULT true,
    "ChangedAt" timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE "FormularyMessages" (
    "Id"        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "ControlId" text NOT NULL,
    "At"        timestamptz NOT NULL DEFAULT now(),
    "Answer"    text NOT NULL CHECK ("Answer" IN ('AA', 'AE', 'AR')),
    "Detail"    text NOT NULL DEFAULT ''
);
