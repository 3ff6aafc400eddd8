-- Tables named as in the architecture document: Users, Projects, WorkTypes, TimeSheets, TimeEntries.
-- What must never be wrong is a constraint here, whatever the program does.

CREATE TABLE "Users" (
    "Id"           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "Subject"      text UNIQUE,
    "Email"        text NOT NULL CHECK (length("Email") BETWEEN 3 AND 254),
    "FirstName"    text NOT NULL CHECK (length("FirstName") BETWEEN 1 AND 100),
    "LastName"     text NOT NULL DEFAULT '' CHECK (length("LastName") <= 100),
    "IsActive"     boolean NOT NULL DEFAULT true,
    "Roles"        text[] NOT NULL DEFAULT '{}',
    "LastSignInAt" timestamptz,
    "CreatedAt"    timestamptz NOT NULL DEFAULT now(),
    CHECK ("Id" < 90000000000)
);
CREATE UNIQUE INDEX "UX_Users_Email" ON "Users" (lower("Email"));

CREATE TABLE "Projects" (
    "Code"        text PRIMARY KEY CHECK ("Code" ~ '^[A-Z0-9][A-Z0-9-]{0,19}$'),
    "Name"        text NOT NULL CHECK (length("Name") BETWEEN 1 AND 100),
    "Description" text NOT NULL DEFAULT '' CHECK (length("Description") <= 500),
    "IsActive"    boolean NOT NULL DEFAULT true,
    "Version"     integer NOT NULL DEFAULT 1
);

CREATE TABLE "WorkTypes" (
    "Code"        text PRIMARY KEY CHECK ("Code" ~ '^[A-Z0-9][A-Z0-9-]{0,19}$'),
    "Name"        text NOT NULL CHECK (length("Name") BETWEEN 1 AND 100),
    "Description" text NOT NULL DEFAULT '' CHECK (length("Description") <= 500),
    "IsActive"    boolean NOT NULL DEFAULT true,
    "Version"     integer NOT NULL DEFAULT 1
);

-- A sheet is fourteen days from a Monday. Periods count from Monday 1 January 2024, so that two can never overlap.
CREATE TABLE "TimeSheets" (
    "Id"             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "UserId"         bigint NOT NULL REFERENCES "Users" ("Id"),
    "StartDate"      date NOT NULL CHECK (("StartDate" - date '2024-01-01') % 14 = 0),
    "EndDate"        date NOT NULL CHECK ("EndDate" = "StartDate" + 13),
    "Status"         text NOT NULL DEFAULT 'Open' CHECK ("Status" IN ('Open', 'Submitted', 'Approved', 'Closed')),
    "TotalHours"     numeric(6, 2) NOT NULL DEFAULT 0 CHECK ("TotalHours" >= 0),
    "Version"        integer NOT NULL DEFAULT 1,
    "LastModifiedAt" timestamptz NOT NULL DEFAULT now(),
    UNIQUE ("UserId", "StartDate"),
    UNIQUE ("Id", "UserId", "StartDate")
);
CREATE INDEX "IX_TimeSheets_Status" ON "TimeSheets" ("Status", "StartDate");

-- "CreatedBy" and "SheetStart" repeat the sheet's owner and first day (the foreign key keeps them true), so that own data
-- and dates within the sheet are plain checks. "Span" puts each person's minutes on a number line of their own: two spans
-- overlap only when one person would be at two things at once. It needs no extension of PostgreSQL.
CREATE TABLE "TimeEntries" (
    "Id"             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "TimeSheetId"    bigint NOT NULL,
    "CreatedBy"      bigint NOT NULL,
    "SheetStart"     date NOT NULL,
    "ProjectCode"    text NOT NULL REFERENCES "Projects" ("Code"),
    "WorkTypeCode"   text NOT NULL REFERENCES "WorkTypes" ("Code"),
    "EntryDate"      date NOT NULL,
    "StartTime"      time(0),
    "EndTime"        time(0),
    "Hours"          numeric(4, 2) NOT NULL CHECK ("Hours" BETWEEN 0.25 AND 24 AND "Hours" * 4 = trunc("Hours" * 4)),
    "Notes"          text NOT NULL DEFAULT '' CHECK (length("Notes") <= 1000),
    "Version"        integer NOT NULL DEFAULT 1,
    "CreatedAt"      timestamptz NOT NULL DEFAULT now(),
    "LastModifiedAt" timestamptz NOT NULL DEFAULT now(),
    "Span"           int8range GENERATED ALWAYS AS (
        CASE WHEN "StartTime" IS NOT NULL THEN int8range(
            "CreatedBy" * 100000000 + ("EntryDate" - date '2000-01-01') * 1440
                + (extract(hour FROM "StartTime") * 60 + extract(minute FROM "StartTime"))::bigint,
            "CreatedBy" * 100000000 + ("EntryDate" - date '2000-01-01') * 1440
                + (extract(hour FROM "EndTime") * 60 + extract(minute FROM "EndTime"))::bigint)
        END) STORED,
    FOREIGN KEY ("TimeSheetId", "CreatedBy", "SheetStart") REFERENCES "TimeSheets" ("Id", "UserId", "StartDate"),
    CONSTRAINT "CK_TimeEntries_InSheet" CHECK ("EntryDate" BETWEEN "SheetStart" AND "SheetStart" + 13),
    CONSTRAINT "CK_TimeEntries_Times" CHECK (
        ("StartTime" IS NULL) = ("EndTime" IS NULL) AND ("StartTime" IS NULL OR "StartTime" < "EndTime")),
    CONSTRAINT "CK_TimeEntries_Century" CHECK ("EntryDate" BETWEEN date '2000-01-01' AND date '2099-12-31'),
    CONSTRAINT "EX_TimeEntries_Overlap" EXCLUDE USING gist ("Span" WITH &&)
);
CREATE INDEX "IX_TimeEntries_Sheet" ON "TimeEntries" ("TimeSheetId", "EntryDate");
CREATE INDEX "IX_TimeEntries_Date" ON "TimeEntries" ("EntryDate", "ProjectCode");

-- Only an open sheet takes changes, also from a statement that nobody foresaw.
CREATE FUNCTION "RefuseUnlessOpen"() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sheet bigint := CASE WHEN TG_OP = 'DELETE' THEN OLD."TimeSheetId" ELSE NEW."TimeSheetId" END;
BEGIN
    IF (SELECT "Status" FROM "TimeSheets" WHERE "Id" = sheet) IS DISTINCT FROM 'Open' THEN
        RAISE EXCEPTION 'the time sheet is not open' USING ERRCODE = 'check_violation', CONSTRAINT = 'TR_TimeEntries_Open';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER "TR_TimeEntries_Open" BEFORE INSERT OR UPDATE OR DELETE ON "TimeEntries"
    FOR EACH ROW EXECUTE FUNCTION "RefuseUnlessOpen"();

-- Who did what, when; rows are only ever added.
CREATE TABLE "History" (
    "Id"      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "At"      timestamptz NOT NULL DEFAULT now(),
    "UserId"  bigint REFERENCES "Users" ("Id"),
    "Thing"   text NOT NULL,
    "Key"     text NOT NULL,
    "Action"  text NOT NULL,
    "Comment" text NOT NULL DEFAULT '' CHECK (length("Comment") <= 1000)
);
CREATE INDEX "IX_History_Thing" ON "History" ("Thing", "Key", "Id");

-- A session is a row, so it can be ended from here. "Id" is a keyed fingerprint: the cookie cannot be made from the table.
CREATE TABLE "Sessions" (
    "Id"         text PRIMARY KEY,
    "UserId"     bigint NOT NULL REFERENCES "Users" ("Id"),
    "Roles"      text[] NOT NULL,
    "IdToken"    text,
    "CreatedAt"  timestamptz NOT NULL DEFAULT now(),
    "LastSeenAt" timestamptz NOT NULL DEFAULT now(),
    "ExpiresAt"  timestamptz NOT NULL
);
CREATE INDEX "IX_Sessions_User" ON "Sessions" ("UserId");
CREATE INDEX "IX_Sessions_ExpiresAt" ON "Sessions" ("ExpiresAt");
