//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Run a whole cloud system from one file, on one machine and with real parts.
#[derive(Parser)]
#[command(name = "stamp", version, propagate_version = true, arg_required_else_help = true)]
pub struct Arguments {
    /// Print data as JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Which stamp of which system.
#[derive(Args, Clone)]
pub struct Of {
    /// The system: a folder with `system.toml`, such as systems/time-tracker, or its name
    pub system: String,
    /// The stamp's name
    #[arg(long, default_value = "dev")]
    pub stamp: String,
}

/// What is to be shown.
#[derive(Args, Clone)]
pub struct ProveOf {
    /// The system: a folder with `system.toml` and `claims.toml`, such as systems/time-tracker
    pub system: String,
    /// Only this claim, such as TT-047
    #[arg(long)]
    pub claim: Option<String>,
    /// Only this area, such as secrets
    #[arg(long)]
    pub area: Option<String>,
    /// Only what looks at one stamp; nothing is changed or waited for
    #[arg(long)]
    pub fast: bool,
    /// Spoil the system on purpose and see the rows fail: a sabotage's name, or `all`
    #[arg(long)]
    pub sabotage: Option<String>,
}

/// To which moment, or what becomes of what was restored.
#[derive(Args, Clone)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub struct RestoreHow {
    /// The database, where there is more than one, such as postgres.main
    pub resource: Option<String>,
    /// To this moment, such as 2026-01-24T12:00:00Z
    #[arg(long, value_name = "TIME", group = "what")]
    pub to: Option<String>,
    /// To a moment that `stamp backup --point` named
    #[arg(long, value_name = "NAME", group = "what")]
    pub to_point: Option<String>,
    /// As far as the log goes
    #[arg(long, group = "what")]
    pub latest: bool,
    /// Bring up a stamp that is not there from a copy of another one's backups (a folder such as regions/REGION/SYSTEM.STAMP)
    #[arg(long, value_name = "COPY", group = "what", requires = "key_file")]
    pub from: Option<PathBuf>,
    /// The file with the recovery key that the lost stamp's first `up` showed; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Put what was restored in its origin's place; the old data is kept under another name
    #[arg(long, group = "what")]
    pub swap: bool,
    /// Remove what was restored
    #[arg(long, group = "what")]
    pub discard: bool,
    /// Remove the old data that a swap has kept
    #[arg(long, group = "what")]
    pub forget_replaced: bool,
    /// This database of the server alone, restored into the server there is beside the one of that name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from", "name"])]
    pub database: Option<String>,
    /// The name of the restored database; NAME-restored if not given
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// What is to be broken.
#[derive(Args, Clone)]
pub struct DrillOf {
    /// The system: a folder with `system.toml`, such as systems/time-tracker
    pub system: String,
    /// The drill, such as supervisor-loss; without it all are listed
    pub name: Option<String>,
    /// Break this stamp instead of a scratch one; refused if it is `protected`
    #[arg(long, value_name = "STAMP")]
    pub on: Option<String>,
    /// The kind of scratch stamp
    #[arg(long, default_value = "dev", conflicts_with = "on")]
    pub stamp: String,
    /// What people do meanwhile: a file in the system's `load` folder
    #[arg(long, default_value = "signed-in-mix")]
    pub load: String,
    /// Do not ask before a stamp of yours is broken
    #[arg(long)]
    pub yes: bool,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Bring a stamp up; run again, it changes only what has changed
    Up {
        #[command(flatten)]
        of: Of,
    },
    /// Show what `up` would do; nothing is changed
    Plan {
        #[command(flatten)]
        of: Of,
    },
    /// Show a stamp's resources, or all stamps
    Status {
        /// The system; without it all stamps are listed
        system: Option<String>,
        #[arg(long, default_value = "dev")]
        stamp: String,
    },
    /// Show the logs of a stamp
    Logs {
        #[command(flatten)]
        of: Of,
        /// Only this resource, such as service.web
        resource: Option<String>,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// Only lines that contain this text
        #[arg(long)]
        grep: Option<String>,
        /// How far back: 90s, 10m, 2h, 7d
        #[arg(long, default_value = "1h")]
        since: String,
        /// Lines at the most
        #[arg(short = 'n', long, default_value_t = 200)]
        lines: usize,
    },
    /// Show traces: the latest, or one by its id
    Traces {
        #[command(flatten)]
        of: Of,
        /// A trace id
        id: Option<String>,
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
    },
    /// Ask the telemetry in SQL: views logs, spans, metrics
    Query {
        #[command(flatten)]
        of: Of,
        sql: String,
        /// Days back, today included
        #[arg(long, default_value_t = 7)]
        days: u32,
        #[arg(short = 'n', long, default_value_t = 1000)]
        lines: usize,
    },
    /// Print the address to open in a browser
    Open {
        #[command(flatten)]
        of: Of,
        /// The resource: edge or identity.main
        #[arg(default_value = "edge")]
        resource: String,
    },
    /// Run a command as a service runs: its identity, its names, its CA, its settings
    Exec {
        #[command(flatten)]
        of: Of,
        /// The service, such as web
        service: String,
        /// The command and its arguments, after --
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Build an image of a service and push it into the stamp's registry
    Build {
        #[command(flatten)]
        of: Of,
        /// The service, such as web
        service: String,
        /// Release it under this version, such as v1.0.0
        #[arg(long)]
        release: Option<String>,
    },
    /// Sign in with a browser and print a token of yours, for what speaks to the vault as you
    Token {
        #[command(flatten)]
        of: Of,
        /// What the token is for
        #[arg(long, default_value = "https://vault.azure.net")]
        resource: String,
    },
    /// Show a stamp's closed network: who may talk to whom, what was refused; cut its links, heal them
    Network {
        #[command(flatten)]
        of: Of,
        #[command(subcommand)]
        verb: Option<NetworkVerb>,
    },
    /// Jobs of a stamp: when they run, how they ended, one run now
    Job {
        #[command(subcommand)]
        verb: JobVerb,
    },
    /// Secrets of a stamp
    Secret {
        #[command(subcommand)]
        verb: SecretVerb,
    },
    /// Take a base backup now, or name this moment
    Backup {
        #[command(flatten)]
        of: Of,
        /// The database, where there is more than one, such as postgres.main
        resource: Option<String>,
        /// Name this moment, to restore to it later (the log up to it is archived)
        #[arg(long)]
        point: Option<String>,
    },
    /// Show what can be gone back to
    Backups {
        #[command(flatten)]
        of: Of,
        /// Only this database, such as postgres.main
        resource: Option<String>,
        /// Restore the latest into a throwaway database and have every table and index of it read
        #[arg(long)]
        verify: bool,
    },
    /// Restore a database beside the one there is; then swap it in, or remove it
    Restore {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        how: RestoreHow,
    },
    /// People of a stamp
    User {
        #[command(subcommand)]
        verb: UserVerb,
    },
    /// Look at every claim of the system's document, on scratch stamps; evidence is kept
    Prove {
        #[command(flatten)]
        of: ProveOf,
    },
    /// Break a stamp on purpose under load, and measure how it recovers and what was lost
    Drill {
        #[command(flatten)]
        of: DrillOf,
    },
    /// The half of a check that runs in the place of a service (started by `prove`)
    #[command(hide = true)]
    Probe { asks: String },
    /// Have the standby of a database lead at once: whatever is left of the primary is killed first
    Failover {
        #[command(flatten)]
        of: Of,
        /// The database, such as postgres.main; without it the only one that has a standby
        resource: Option<String>,
        /// Even if the standby lacks writes that were acknowledged
        #[arg(long)]
        accept_loss: bool,
    },
    /// Have the standby of a database lead in order: no acknowledged write is lost, and the primary follows it
    Switchover {
        #[command(flatten)]
        of: Of,
        /// The database, such as postgres.main; without it the only one that has a standby
        resource: Option<String>,
    },
    /// Stop a stamp; its data stays
    Down {
        #[command(flatten)]
        of: Of,
    },
    /// Remove a stamp with all its data
    Destroy {
        #[command(flatten)]
        of: Of,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// The record of who did what
    Audit {
        #[command(subcommand)]
        verb: AuditVerb,
    },
    /// Say what this machine can isolate, and what it refuses
    Doctor,
    /// Write a commented system.toml to start from
    Init {
        /// The folder to write it in
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Tell more about an error code, such as S0209
    Explain { code: String },
    /// Print the JSON Schema of system.toml
    Schema,
    /// Run a part of Stampwright (started by it, not by people)
    #[command(hide = true)]
    Serve {
        #[command(subcommand)]
        role: Role,
    },
}

#[derive(Subcommand)]
pub enum NetworkVerb {
    /// Cut the link between two resources, or a declared one (links.NAME) to another stamp: nothing passes, and nobody is told
    Cut { one: String, other: Option<String> },
    /// Let a link lose packets
    Lose {
        one: String,
        /// Not given for a declared link
        #[arg(value_name = "OTHER")]
        rest: String,
        /// Of a hundred packets so many, such as 20%
        share: Option<String>,
    },
    /// Let so much pass a link in a second and drop the rest, each way; there is no delay
    Slow {
        one: String,
        /// Not given for a declared link
        #[arg(value_name = "OTHER")]
        rest: String,
        /// A size for each second, such as 256KiB
        rate: Option<String>,
    },
    /// Heal a link
    Heal { one: String, other: Option<String> },
}

#[derive(Subcommand)]
pub enum JobVerb {
    /// Show each job, its next and its last run
    List {
        #[command(flatten)]
        of: Of,
    },
    /// Run a job now and wait for its end
    Run {
        #[command(flatten)]
        of: Of,
        /// The job, such as dump
        name: String,
    },
    /// Show the last runs
    Runs {
        #[command(flatten)]
        of: Of,
        /// Only this job's
        name: Option<String>,
    },
}

#[derive(Subcommand)]
pub enum SecretVerb {
    /// Set a secret; its value is read from standard input
    Set {
        #[command(flatten)]
        of: Of,
        name: String,
        /// The vault, where there is more than one
        #[arg(long)]
        vault: Option<String>,
    },
    /// Print a secret's value on standard output; recorded like every other reading of it
    Show {
        #[command(flatten)]
        of: Of,
        name: String,
        /// The vault, where there is more than one
        #[arg(long)]
        vault: Option<String>,
    },
    /// Give a secret that the stamp has made itself another value; the old one opens nothing any more
    Rotate {
        #[command(flatten)]
        of: Of,
        name: String,
        /// The vault, where there is more than one
        #[arg(long)]
        vault: Option<String>,
    },
}

#[derive(Subcommand)]
pub enum UserVerb {
    /// Invite a person; prints a link that works once
    Add {
        #[command(flatten)]
        of: Of,
        email: String,
        /// The person's name; the e-mail's first part without it
        #[arg(long)]
        name: Option<String>,
        /// A group; may be given more than once
        #[arg(long = "group")]
        groups: Vec<String>,
    },
    /// Put a person in exactly these groups; they count from the next sign-in on
    Groups {
        #[command(flatten)]
        of: Of,
        email: String,
        /// A group; may be given more than once. Without it the person is in none
        #[arg(long = "group")]
        groups: Vec<String>,
    },
}

#[derive(Subcommand)]
pub enum AuditVerb {
    /// Check the chain of a stamp's record, or of a folder with a copy of it; nothing needs to run
    Verify {
        /// A system, or a folder of audit records
        system: String,
        #[arg(long, default_value = "dev")]
        stamp: String,
    },
    /// Show what people had the supervisor do: all of the home, or of one system
    Acts {
        /// The system
        system: Option<String>,
        #[arg(long)]
        stamp: Option<String>,
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: usize,
    },
    /// Show records, the newest first
    Show {
        #[command(flatten)]
        of: Of,
        /// Only what this actor did, such as service.web
        #[arg(long)]
        actor: Option<String>,
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: usize,
    },
}

#[derive(Subcommand)]
pub enum Role {
    Supervisor {
        #[arg(long)]
        home: PathBuf,
    },
    Shim {
        #[arg(long)]
        config: PathBuf,
    },
    Template {
        #[arg(long)]
        bin: PathBuf,
        #[arg(long)]
        to: PathBuf,
    },
    Gateway {
        #[arg(long)]
        config: PathBuf,
    },
    Vault {
        #[arg(long)]
        config: PathBuf,
    },
    Identity {
        #[arg(long)]
        config: PathBuf,
    },
    Telemetry {
        #[arg(long)]
        config: PathBuf,
    },
    Audit {
        #[arg(long)]
        config: PathBuf,
    },
    Registry {
        #[arg(long)]
        config: PathBuf,
    },
    Blob {
        #[arg(long)]
        config: PathBuf,
    },
    Postgres {
        #[arg(long)]
        config: PathBuf,
    },
    Graph {
        #[arg(long)]
        config: PathBuf,
    },
    /// Hands a file of PostgreSQL's log to its keeper
    Archive {
        #[arg(long)]
        socket: PathBuf,
        name: String,
    },
    /// Has a keeper put a file of the archive where its server wants it
    Fetch {
        #[arg(long)]
        socket: PathBuf,
        name: String,
        to: String,
    },
}
