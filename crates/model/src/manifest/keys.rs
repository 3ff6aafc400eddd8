//! Every key of the manifest: what it takes, and what it is for.

use super::shape::{Key, Names, Shape};

use Shape::{
    Bool, Bytes, Cidr, Duration, Either, List, Name, Named, OneOf, Path, Price, Principal, Raw, Resource, Table, Text,
};

/// The version of the format that this program reads.
pub(crate) const VERSION: i64 = 1;

pub(crate) const ROOT: Shape = Table(&ROOT_KEYS);

/// What a stamp's overlay is checked as once it is laid on: the file without its head.
pub(crate) const MERGED: Shape = Table(BODY);

/// Whether the key is one that the file and the overlays have in common.
pub(crate) fn is_body(name: &str) -> bool {
    BODY.iter().any(|key| key.name == name)
}

const ROOT_KEYS: [Key; HEAD.len() + BODY.len()] = chain(HEAD, BODY);
const STAMP_KEYS: [Key; STAMP.len() + BODY.len()] = chain(STAMP, BODY);

const fn chain<const N: usize>(a: &[Key], b: &[Key]) -> [Key; N] {
    let mut all = [a[0]; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < a.len() { a[at] } else { b[at - a.len()] };
        at += 1;
    }
    all
}

const fn count(max: i64) -> Shape {
    Shape::Integer { min: 1, max }
}

const PORT: Shape = count(65_535);

const HEAD: &[Key] = &[
    Key::new("stamp", count(i64::MAX), "Version of the manifest's format: 1.").required(),
    Key::new("system", Name, "Name of the system; part of host names and folders.").required(),
    Key::new("title", Text, "Name for people; the system's name if not given."),
    Key::new(
        "stamps",
        Named(Names::Name, &Table(&STAMP_KEYS)),
        "The stamps there are, each an overlay of this file: tables merge, lists replace.",
    )
    .required(),
];

const STAMP: &[Key] = &[
    Key::new(
        "only",
        List(&Raw),
        "Resources that this stamp keeps, such as `service.web` or `vault.*`; all others are left out.",
    ),
    Key::new("without", List(&Raw), "Resources that this stamp leaves out, such as `service.web` or `redis.*`."),
];

/// What the file and each stamp's overlay have in common.
const BODY: &[Key] = &[
    Key::new("region", Name, "Label of the region; regions on one machine are separate stamps."),
    Key::new("protected", Bool, "Never broken by a drill, whatever is asked."),
    Key::new(
        "names",
        Table(&[Key::new("cloud", Bool, "Real Azure host names lead to this stamp, for its own workloads.")]),
        "Names.",
    ),
    Key::new("tags", Named(Names::Word, &Text), "Tags on every resource."),
    Key::new("policy", Table(POLICY), "Rules that this manifest itself must keep."),
    Key::new("groups", Named(Names::Name, &Table(GROUP)), "Logical groups of resources, such as resource groups."),
    Key::new(
        "sizes",
        Named(Names::Word, &Table(SIZE)),
        "Machine sizes by their names; a resource's `size` is one of them.",
    ),
    Key::new("cost", Table(COST), "Budget and its alerts.").later(),
    Key::new("network", Table(NETWORK), "Address plan; where the machine allows it, only declared flows pass."),
    Key::new("edge", Table(EDGE), "The one guarded entry."),
    Key::new("service", Named(Names::Name, &Table(SERVICE)), "Programs of the application that keep running."),
    Key::new("job", Named(Names::Name, &Table(JOB)), "Programs that run at set times and end."),
    Key::new("postgres", Named(Names::Name, &Table(POSTGRES)), "PostgreSQL databases."),
    Key::new("redis", Named(Names::Name, &Table(REDIS)), "Caches and queues."),
    Key::new("blob", Named(Names::Name, &Table(BLOB)), "Object stores."),
    Key::new("share", Named(Names::Name, &Table(SHARE)), "Folders that workloads mount."),
    Key::new("graph", Named(Names::Name, &Table(GRAPH)), "Graph databases that speak Cypher."),
    Key::new("vault", Named(Names::Name, &Table(VAULT)), "Key vaults."),
    Key::new(
        "identity",
        Named(Names::Name, &Table(IDENTITY)),
        "Sign-in and tokens; one at most. Added by itself where a vault needs it.",
    ),
    Key::new("telemetry", Named(Names::Name, &Table(TELEMETRY)), "Logs, metrics and traces."),
    Key::new("audit", Named(Names::Name, &Table(AUDIT)), "The hash-chained record of who did what."),
    Key::new("registry", Named(Names::Name, &Table(REGISTRY)), "Private registries of images."),
    Key::new("external", Named(Names::Name, &Table(EXTERNAL)), "What is not ours, and what plays its part here."),
    Key::new("alerts", Named(Names::Name, &Table(ALERT)), "What people are told of.").later(),
    Key::new(
        "objectives",
        Named(Names::Name, &Table(OBJECTIVE)),
        "Promises; each names the drill or probe that measures it.",
    )
    .later(),
    Key::new(
        "shared",
        Table(SHARED),
        "Resources of other stamps, used as if they were this one's: `SYSTEM/STAMP` or `SYSTEM/STAMP/RESOURCE`.",
    )
    .later(),
    Key::new("links", Named(Names::Name, &Table(LINK)), "What crosses the border to another stamp of the system."),
];

const POLICY: &[Key] = &[
    Key::new("require_tags", List(&Raw), "Tags that every resource must have."),
    Key::new("regions", List(&Name), "Regions that stamps may lie in."),
];

const GROUP: &[Key] = &[
    Key::new("title", Text, "Name for people and reports, such as `rg-{system}-{stamp}`; the key if not given."),
    Key::new("holds", List(&Raw), "Resources, such as `service.web`, `vault.*` or `*`.").required(),
    Key::new("tags", Named(Names::Word, &Text), "Tags on its resources."),
];

const SIZE: &[Key] = &[
    Key::new("cpu", CPU, "CPUs: 2, or thousandths as \"500m\"."),
    Key::new("memory", Bytes, "Memory."),
    Key::new("price", Price, "Price, such as \"13 USD/month\"."),
];

const CPU: Shape = Either(&[count(1_024), Shape::Cpu]);

const COST: &[Key] = &[
    Key::new("budget", Price, "Budget of this stamp.").required(),
    Key::new("alerts", List(&count(1_000)), "Per cent of the budget at which an alert fires."),
    Key::new("report", Duration, "How often a report is made."),
];

const NETWORK: &[Key] = &[
    Key::new("space", Cidr, "All of the stamp's addresses."),
    Key::new(
        "subnets",
        Named(Names::Name, &Either(&[Cidr, Table(SUBNET)])),
        "Subnets by name, inside the space: a block, or a block and what it is for.",
    ),
];

const SUBNET: &[Key] = &[
    Key::new("range", Cidr, "Its block of addresses.").required(),
    Key::new(
        "for",
        OneOf(&["service", "job", "postgres", "redis", "blob", "share", "graph", "vault"]),
        "Only resources of this kind lie in it.",
    ),
];

const EDGE: &[Key] = &[
    Key::new("routes", List(&Table(ROUTE)), "What goes where; the longest path wins, a named host before any."),
    Key::new(
        "origins",
        List(&Either(&[Name, Table(ORIGIN)])),
        "Stamps of this system before which this edge stands, in none of their networks; of a list of names the first is preferred.",
    ),
    Key::new("probe", Table(PROBE), "How origins are asked whether they are well."),
    Key::new(
        "front",
        Name,
        "The stamp through whose edge people come to this one: `{edge.url}` and sign-in lead there. It is brought up first.",
    ),
    Key::new(
        "tls",
        Table(&[Key::new("min", OneOf(&["1.2", "1.3"]), "Oldest TLS version that is taken; 1.2 if not given.")]),
        "TLS.",
    ),
    Key::new("hsts", Duration, "`max-age` of Strict-Transport-Security; 365d if not given, 0s leaves it out."),
    Key::new("limits", Table(EDGE_LIMITS), "Bounds of a request and of all together."),
    Key::new("allow", List(&Cidr), "Source addresses that may come in; all if not given.").later(),
    Key::new("countries", List(&Raw), "Countries (ISO 3166) that may come in; all if not given.").later(),
    Key::new("waf", Bool, "The OWASP Core Rule Set looks at each request.").later(),
    Key::new("rates", Named(Names::Name, &Raw), "Requests by tier of caller, such as standard = \"60/m\".").later(),
    Key::new("cache", List(&Table(CACHE)), "Answers that are kept.").later(),
];

const ORIGIN: &[Key] = &[
    Key::new("stamp", Name, "A stamp of this system that has an edge.").required(),
    Key::new(
        "priority",
        count(100),
        "Of origins that are well, those with the lowest get the requests; its place in the list if not given.",
    ),
    Key::new("weight", count(1000), "Its share of the requests among those of its priority; 1 if not given."),
];

const PROBE: &[Key] = &[
    Key::new("path", Path, "Asked of each origin; an answer of 2xx or 3xx says that it is well; `/` if not given."),
    Key::new("every", Duration, "The time between two looks; 1s if not given."),
    Key::new("fall", count(100), "Bad answers in a row that take an origin out; 2 if not given."),
];

const ROUTE: &[Key] = &[
    Key::new("path", Path, "Prefix by whole segments; `/` takes all.").required(),
    Key::new("host", Shape::Some(&Text), "Host name or names; any if not given."),
    Key::new("to", Resource, "The service that answers.").required(),
];

const EDGE_LIMITS: &[Key] = &[
    Key::new("header", Bytes, "All header lines together."),
    Key::new("headers", count(10_000), "Header lines."),
    Key::new("body", Bytes, "A request's body."),
    Key::new("timeout", Duration, "From the sent request to the head of the answer."),
    Key::new("connections", count(1_000_000), "Connections at once."),
    Key::new("drain", Duration, "What open requests get when the gateway stops."),
];

const CACHE: &[Key] = &[
    Key::new("path", Path, "Prefix by whole segments.").required(),
    Key::new("life", Duration, "How long an answer is kept.").required(),
];

const SERVICE: &[Key] = &[
    Key::new("run", List(&Text), "Program and arguments; the program by name or by path from this file."),
    Key::new("image", Text, "OCI image instead of a program, such as `registry.main/web:latest`.").later(),
    Key::new("args", List(&Text), "Arguments for the image."),
    Key::new("directory", Text, "Working directory, from this file's folder."),
    Key::new("port", PORT, "Port it listens on; none for a worker that nobody calls."),
    Key::new("health", Path, "Path that answers 200 when it can work."),
    Key::new("subnet", Raw, "A subnet of `network`."),
    Key::new("size", Text, "A size of `sizes`; its CPU and memory are the limits."),
    Key::new("needs", List(&Resource), "Started before it; and it may talk to these and to no others."),
    Key::new("scale", Table(SCALE), "How many copies run."),
    Key::new("env", ENV, "Environment: text, vault references, `{postgres.main.host}` and the like."),
    Key::new(
        "migrate",
        Either(&[List(&Text), Table(MIGRATE)]),
        "A step of its own when a version is put in, with an identity of its own, `service.NAME.migrate`.",
    ),
    Key::new("limits", Table(LIMITS), "What one copy may use."),
    Key::new(
        "start_within",
        Duration,
        "Time to become healthy when started; if it takes longer, `up` fails and says what it last answered. 60s if not given.",
    ),
    Key::new("stop_grace", Duration, "Time to end by itself when stopped; 30s if not given."),
    Key::new(
        "unresolved",
        UNRESOLVED,
        "A vault reference that cannot be resolved: `fail` does not start it (if not given), `text` starts it with the literal text.",
    ),
    Key::new("mounts", List(&Table(MOUNT)), "Shares it sees as folders; `MOUNT_NAME` says where."),
    Key::new("rollout", Table(ROLLOUT), "How a new version takes over the traffic; at once if not given.").later(),
    Key::new("slots", List(&Name), "Standing-by copies that a new version is tried in.").later(),
    Key::new("hours", Table(HOURS), "When it runs; always if not given.").later(),
];

const ENV: Shape = Named(Names::Variable, &Text);
const UNRESOLVED: Shape = OneOf(&["fail", "text"]);

const SCALE: &[Key] = &[
    Key::new("min", count(1_000), "Copies that are started; 1 if not given."),
    Key::new("max", count(1_000), "Most copies; as `min` if not given."),
    Key::new("out", Shape::Some(&Raw), "Adds a copy, such as `cpu > 70% for 5m`; of several, any does.").later(),
    Key::new("in", Shape::Some(&Raw), "Takes a copy away, such as `cpu < 30% for 5m`; of several, all must hold.")
        .later(),
];

const ROLLOUT: &[Key] = &[
    Key::new("steps", List(&count(100)), "Per cent of the traffic, one after another.").required(),
    Key::new("abort", Shape::Some(&Raw), "Goes back when any of these holds, such as `errors > 1%`."),
];

const MIGRATE: &[Key] = &[
    Key::new("run", List(&Text), "Program and arguments.").required(),
    Key::new("env", ENV, "Its whole environment; nothing is taken over from the service."),
    Key::new("when", OneOf(&["before", "after"]), "Before the new version takes traffic (if not given), or after."),
    Key::new("timeout", Duration, "It has failed after this; 10m if not given."),
];

const LIMITS: &[Key] = &[
    Key::new("memory", Bytes, "Memory."),
    Key::new("cpu", CPU, "CPUs: 2, or thousandths as \"500m\"."),
    Key::new("pids", count(4_194_304), "Processes and threads."),
];

const MOUNT: &[Key] = &[
    Key::new("share", Resource, "The share.").required(),
    Key::new("path", Path, "Where the workload sees it.").required(),
    Key::new("write", Bool, "Whether it may write; false if not given."),
];

const HOURS: &[Key] = &[
    Key::new("from", Raw, "Start of the day, such as \"07:00\".").required(),
    Key::new("to", Raw, "End of the day.").required(),
    Key::new("days", OneOf(&["every", "mon-fri"]), "Days; every one if not given."),
    Key::new("zone", Raw, "Time zone, such as `Europe/Dublin`; UTC if not given."),
];

const JOB: &[Key] = &[
    Key::new("run", List(&Text), "Program and arguments; the program by name or by path from this file."),
    Key::new("image", Text, "OCI image instead of a program."),
    Key::new("args", List(&Text), "Arguments for the image."),
    Key::new("directory", Text, "Working directory, from this file's folder."),
    Key::new("every", Duration, "Runs this often."),
    Key::new("cron", Raw, "Runs at these times, five fields of cron in UTC."),
    Key::new("subnet", Raw, "A subnet of `network`."),
    Key::new("needs", List(&Resource), "It may talk to these and to no others."),
    Key::new("env", ENV, "Environment, as a service's."),
    Key::new("limits", Table(LIMITS), "What it may use."),
    Key::new("mounts", List(&Table(MOUNT)), "Shares it sees as folders."),
    Key::new("timeout", Duration, "It has failed after this; 1h if not given."),
    Key::new("unresolved", UNRESOLVED, "As a service's."),
];

const POSTGRES: &[Key] = &[
    Key::new("version", Either(&[count(99), Table(VERSIONS)]), "Major version.").required(),
    Key::new("subnet", Raw, "A subnet of `network`."),
    Key::new("size", Text, "A size of `sizes`."),
    Key::new("port", PORT, "Port; 5432 if not given."),
    Key::new("databases", List(&Text), "Databases in it; one named after the system if not given."),
    Key::new("access", List(&Table(DATABASE_ACCESS)), "Who may do what; nobody else gets in."),
    Key::new("backup", Table(BACKUP), "Backups."),
    Key::new(
        "high_availability",
        OneOf(&["none", "same-zone", "zone-redundant"]),
        "A standby that takes over; none if not given.",
    ),
    Key::new("standby", Table(STANDBY), "How the standby of `high_availability` follows."),
    Key::new("read_replicas", count(5), "Further copies that only read and never take over; 0 if not given."),
    Key::new("storage", Table(STORAGE), "A disk of its own; as much as the machine's has if not given."),
    Key::new("connections", Shape::Integer { min: 10, max: 10_000 }, "Connections at once; 100 if not given."),
    Key::new(
        "settings",
        Named(Names::Variable, &Raw),
        "Settings by PostgreSQL's own names, such as log_statement = \"all\".",
    ),
];

const STANDBY: &[Key] = &[
    Key::new(
        "synchronous",
        Bool,
        "A write is acknowledged once the standby has it on its disk too, so that a failover loses none; true if not given.",
    ),
    Key::new(
        "when_lost",
        OneOf(&["go-on", "wait"]),
        "With the standby lost, writes go on without it after `lost_after` (if not given), or wait until it is back.",
    ),
    Key::new("lost_after", Duration, "How long a standby must have been silent to count as lost; 10s if not given."),
];

const VERSIONS: &[Key] = &[
    Key::new("want", count(99), "The version the system is made for.").required(),
    Key::new("accept", List(&count(99)), "Versions that do as well, the best first."),
];

const DATABASE_ACCESS: &[Key] = &[
    Key::new("to", Principal, "A workload, such as `service.web` or `service.web.migrate`.").required(),
    Key::new("right", OneOf(&["read-only", "read-write", "owner"]), "`owner` may change the schema.").required(),
    Key::new("database", Text, "Which database; the first if not given."),
    Key::new(
        "sign_in",
        OneOf(&["password", "identity"]),
        "By the password in its connection string, or by a token of its identity and no password; password if not given.",
    ),
];

const BACKUP: &[Key] = &[
    Key::new("retention", Duration, "How long a backup is kept; 7d if not given."),
    Key::new(
        "point_in_time",
        Bool,
        "The log is archived continuously, so that any moment can be gone back to; true if not given.",
    ),
    Key::new("geo", Bool, "A copy under another region's label."),
    Key::new("every", Duration, "How often a full backup is made; 1d if not given."),
    Key::new("differential", Duration, "How often what has changed since the full one is kept.").later(),
    Key::new("increments", Duration, "How often the log is archived at least; 60s if not given."),
    Key::new("to", Resource, "A share or blob that gets further copies.").later(),
    Key::new("immutable", Bool, "Nobody can delete a copy before its time.").later(),
];

const STORAGE: &[Key] = &[
    Key::new("size", Bytes, "Its size; larger than before, it grows while it is used. It never becomes smaller."),
    Key::new("grow", Bool, "It doubles by itself once a fifth of it is left (a tenth beyond 1TiB); true if not given."),
];

const REDIS: &[Key] = &[
    Key::new("subnet", Raw, "A subnet of `network`."),
    Key::new("size", Text, "A size of `sizes`."),
    Key::new("port", PORT, "Port; 6379 if not given."),
    Key::new("memory", Bytes, "Memory for data; 64MiB if not given."),
    Key::new(
        "sync",
        OneOf(&["second", "always"]),
        "When a write is on disk: within a second, or before it is answered.",
    ),
    Key::new("when_full", OneOf(&["refuse", "evict"]), "At the end of its memory: writes are refused, or old keys go."),
    Key::new(
        "scale",
        Table(&[Key::new("min", count(9), "Copies."), Key::new("max", count(9), "Most copies.")]),
        "How many copies run.",
    )
    .later(),
    Key::new("access", List(&Principal), "Who may use it."),
];

const BLOB: &[Key] = &[
    Key::new("subnet", Raw, "A subnet of `network`."),
    Key::new("cloud_name", Text, "Its account name in the cloud."),
    Key::new("containers", Named(Names::Name, &Table(CONTAINER)), "Containers.").required(),
    Key::new("redundancy", OneOf(&["local", "zone", "geo"]), "Where copies are; local if not given.").later(),
    Key::new("soft_delete", Duration, "How long a deleted object can be brought back; 0s if not given."),
    Key::new("versioning", Bool, "Every overwrite keeps the version before."),
    Key::new("snapshot", Duration, "How often a snapshot is made.").later(),
    Key::new("access", List(&Table(BLOB_ACCESS)), "Who may do what."),
];

const CONTAINER: &[Key] = &[
    Key::new(
        "public",
        OneOf(&["none", "blob", "container"]),
        "What anybody may read without credentials: a blob by its name, or the list too; none if not given.",
    ),
    Key::new("cool_after", Duration, "An object moves to the cool tier after this."),
    Key::new("archive_after", Duration, "It moves to the archive tier after this."),
    Key::new("delete_after", Duration, "It is deleted after this."),
    Key::new("immutable", Duration, "Nobody can change or delete it before this."),
];

const BLOB_ACCESS: &[Key] = &[
    Key::new("to", Principal, "A workload or group.").required(),
    Key::new(
        "role",
        OneOf(&["Storage Blob Data Reader", "Storage Blob Data Contributor", "Storage Blob Data Owner"]),
        "Azure's role.",
    )
    .required(),
    Key::new("container", Raw, "Only this container."),
];

const SHARE: &[Key] =
    &[Key::new("subnet", Raw, "A subnet of `network`."), Key::new("quota", Bytes, "Most it may hold.").later()];

const GRAPH: &[Key] = &[
    Key::new("subnet", Raw, "A subnet of `network`."),
    Key::new("size", Text, "A size of `sizes`."),
    Key::new("port", PORT, "Bolt port; 7687 if not given."),
    Key::new("members", count(9), "Members of the cluster; 1 if not given."),
    Key::new("zones", List(&Raw), "Zones the members are spread over."),
    Key::new("monitor", Bool, "One more machine that only watches."),
    Key::new(
        "access",
        List(&Table(&[
            Key::new("to", Principal, "A workload.").required(),
            Key::new("right", OneOf(&["read", "write"]), "What it may do.").required(),
        ])),
        "Who may do what.",
    ),
];

const VAULT: &[Key] = &[
    Key::new("subnet", Raw, "A subnet of `network`."),
    Key::new("cloud_name", Text, "Its name in the cloud; references may use it."),
    Key::new("soft_delete", Duration, "How long a deleted secret can be recovered: 7d to 90d; 90d if not given."),
    Key::new(
        "tier",
        OneOf(&["standard", "premium"]),
        "standard if not given. premium is the one with keys in hardware, which no vault here makes.",
    ),
    Key::new("purge_protection", Bool, "Nobody can remove a deleted secret for good before its time."),
    Key::new("access", List(&Table(VAULT_ACCESS)), "Who may do what; nobody else gets in."),
    Key::new("secrets", Named(Names::Secret, &Table(SECRET)), "The secrets it holds, and where each value comes from."),
];

const VAULT_ACCESS: &[Key] = &[
    Key::new("to", Principal, "A workload, such as `service.web`, or people, `group:NAME`.").required(),
    Key::new(
        "role",
        OneOf(&["Key Vault Secrets User", "Key Vault Secrets Officer", "Key Vault Reader", "Key Vault Administrator"]),
        "Azure's role.",
    )
    .required(),
    Key::new("secrets", List(&Raw), "Only these secrets; all of the vault if not given."),
];

const SECRET: &[Key] = &[
    Key::new("from", Resource, "The resource that the value belongs to."),
    Key::new(
        "what",
        OneOf(&["connection-string", "admin-password", "client-secret", "client-id", "tenant", "url", "key"]),
        "Which value of it.",
    ),
    Key::new("for", Raw, "Whose: a workload, or the id of a sign-in client."),
    Key::new("database", Raw, "Which database; the first if not given."),
    Key::new("format", OneOf(&["npgsql", "url"]), "How a database connection is written; npgsql if not given."),
    Key::new("generate", Bytes, "Random, so many bytes, made once."),
    Key::new("same", Raw, "The same value as `vault.NAME/SECRET`."),
    Key::new("ask", Bool, "A person sets it with `stamp secret set`."),
];

const IDENTITY: &[Key] = &[
    Key::new("title", Text, "Shown when signing in; the system's title if not given."),
    Key::new("issuer", Raw, "An outside OIDC issuer in place of this sign-in, `https://...`.").later(),
    Key::new(
        "issuers",
        Named(Names::Name, &Table(OUTSIDE_ISSUER)),
        "Outside OIDC issuers that vouch for people; each registers `{identity.NAME.issuer}/outside/NAME/callback`.",
    ),
    Key::new(
        "directory",
        Table(DIRECTORY),
        "An LDAP directory that judges the passwords of people with its addresses.",
    ),
    Key::new("groups", List(&Name), "Groups of people."),
    Key::new("admin_group", Name, "The group whose members administer people."),
    Key::new("clients", Named(Names::Name, &Table(CLIENT)), "Applications that people sign in to."),
    Key::new("mfa", Bool, "A second factor is asked of everybody.").later(),
    Key::new("session", Duration, "How long a sign-in lasts; 12h if not given."),
];

const OUTSIDE_ISSUER: &[Key] = &[
    Key::new("title", Text, "On the button: `Sign in with TITLE`; the key if not given."),
    Key::new("issuer", Text, "As it calls itself, `https://...`.").required(),
    Key::new("client", Raw, "What this stamp is called there (`client_id`).").required(),
    Key::new("secret", Text, "The client's secret, a vault reference; without one PKCE alone proves who asks."),
    Key::new("domains", List(&Raw), "People with these e-mail domains sign in there and nowhere else."),
    Key::new("groups_claim", Raw, "The claim with the groups; `groups` if not given."),
    Key::new("groups", Named(Names::Name, &Raw), "By group here: what it is called there."),
];

const DIRECTORY: &[Key] = &[
    Key::new("url", Text, "`ldaps://HOST[:PORT]`, `ldap://` (with StartTLS), or `{external.NAME.url}`.").required(),
    Key::new("base", Raw, "Where people and groups are searched, such as `dc=example,dc=org`.").required(),
    Key::new("bind", Raw, "The account of this stamp that searches, by its whole name.").required(),
    Key::new("secret", Text, "That account's password, a vault reference.").required(),
    Key::new("domains", List(&Raw), "People with these e-mail domains sign in by it and in no other way.").required(),
    Key::new("login", Raw, "The attribute that logins are; `mail` if not given."),
    Key::new("groups", Named(Names::Name, &Raw), "By group here: what it is called there, whole or its first part."),
];

const CLIENT: &[Key] = &[
    Key::new("title", Text, "Shown when signing in; the system's title if not given."),
    Key::new("redirect", List(&Path), "Paths of the edge that sign-in returns to.").required(),
    Key::new("sign_out", List(&Path), "Paths of the edge that sign-out returns to."),
];

const TELEMETRY: &[Key] = &[Key::new("retention", Duration, "How long it is kept; 30d if not given.")];

const AUDIT: &[Key] = &[Key::new("retention", Duration, "How long records are kept; 90d if not given.")];

const REGISTRY: &[Key] = &[
    Key::new("size", Text, "A size of `sizes`."),
    Key::new("cloud_name", Text, "Its name in the cloud."),
    Key::new("admin_user", Bool, "An admin user exists; for the first push only."),
    Key::new("access", List(&Table(REGISTRY_ACCESS)), "Who may pull and push; nobody else gets in."),
    Key::new(
        "tags",
        List(&OneOf(&["latest", "timestamp"])),
        "What every build is tagged with; both if not given. `timestamp` is `YYYYMMDD-HHMMSS`, UTC.",
    ),
    Key::new("movable_releases", Bool, "A tag such as `v1.0.0` may be pushed again; otherwise it stays what it was."),
    Key::new("keep_untagged", Duration, "How long images without a tag are kept; for ever if not given."),
    Key::new(
        "scan",
        Table(&[
            Key::new("on_push", Resource, "Scanner that looks at each image as it comes."),
            Key::new("before_deploy", Resource, "Scanner that must pass an image before it is deployed."),
        ]),
        "Scanners of images.",
    )
    .later(),
    Key::new(
        "on_push",
        List(&Table(&[
            Key::new("image", Raw, "`REPOSITORY:TAG`.").required(),
            Key::new("to", Resource, "The service that is deployed.").required(),
        ])),
        "What a push deploys.",
    )
    .later(),
];

const REGISTRY_ACCESS: &[Key] = &[
    Key::new("to", Principal, "A workload, such as `service.web`, or people, `group:NAME`.").required(),
    Key::new("role", OneOf(&["AcrPull", "AcrPush", "AcrDelete"]), "Azure's role; who pushes also pulls.").required(),
    Key::new("repositories", List(&Raw), "Only these repositories; all of the registry if not given."),
];

const EXTERNAL: &[Key] = &[
    Key::new("url", Raw, "Where it really is.").required(),
    Key::new("region", Name, "The region in which it handles data."),
    Key::new(
        "stand_in",
        Table(&[
            Key::new("run", List(&Text), "Program and arguments.").required(),
            Key::new("port", PORT, "Port it listens on.").required(),
        ]),
        "Plays its part on this machine; the real one is called if not given.",
    ),
];

const OBJECTIVE: &[Key] = &[
    Key::new("within", Duration, "Takes no longer than this."),
    Key::new("at_least", Either(&[Raw, count(i64::MAX)]), "No less than this: \"99.95%\", \"1000/m\", or a count."),
    Key::new("drill", Raw, "The drill that measures it."),
    Key::new("drills", List(&Raw), "The drills that measure it, all of them."),
    Key::new("probe", Raw, "The probe that measures it."),
];

const ALERT: &[Key] = &[
    Key::new("when", Raw, "Rule such as `p95 > 200ms for 5m`, `errors > 1%`, `budget > 90%`.").required(),
    Key::new("severity", OneOf(&["warning", "critical"]), "`warning` if not given."),
];

const FROM_ELSEWHERE: Shape = Named(Names::Name, &Raw);

const SHARED: &[Key] = &[
    Key::new("registry", FROM_ELSEWHERE, "Registries."),
    Key::new("identity", FROM_ELSEWHERE, "Directories."),
    Key::new("telemetry", FROM_ELSEWHERE, "Telemetry."),
    Key::new("audit", FROM_ELSEWHERE, "Audit records."),
    Key::new("blob", FROM_ELSEWHERE, "Object stores."),
    Key::new("share", FROM_ELSEWHERE, "Shares."),
];

const LINK: &[Key] = &[
    Key::new(
        "what",
        OneOf(&["replica", "copy", "call"]),
        "`replica` follows and can take over, `copy` holds copies, `call` lets a service call a service of the other: it has `LINK_NAME_URL`, `_CA` and `_KEY`, the other the key as `LINK_NAME_FROM_STAMP_KEY`. `replica` and `copy` are not carried out yet.",
    )
    .required(),
    Key::new("from", Raw, "A resource, of another stamp as `STAMP/RESOURCE`.").required(),
    Key::new("to", Raw, "A resource, of another stamp as `STAMP/RESOURCE`.").required(),
    Key::new("carries", List(&Raw), "What a call may carry, told to both services (`_CARRIES`), who keep to it; not limited if not given."),
    Key::new("lag", Duration, "How far a copy may lag behind."),
];
