//! A member's data and its days: fetched from the leading member, kept in step with it, promoted.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use api::member::{Follower, Lead, Member, Part, Pulse};
use tokio_postgres::Client;

use crate::{
    Error,
    admin::{Admin, SignIn, set_verifier},
    config::Checked,
    member::{Membership, REPLICATOR, Rebuild},
    name::{ident, literal},
    postmaster::Postmaster,
    scram, settings,
    sync::{Act, Seen, Sync},
    template, tools, wal,
};

/// How often a server is asked how it stands with the others.
const TICK: Duration = Duration::from_millis(100);
/// A server that took so long to answer is asked anew.
const PATIENCE: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// Present in a data directory that follows; PostgreSQL removes it when it is promoted.
const SIGNAL: &str = "standby.signal";
const REWINDING: &str = "rewinding";

pub(crate) fn is_standby(pgdata: &Path) -> bool {
    pgdata.join(SIGNAL).exists()
}

/// Marks a data directory as one that follows. On the disk when it returns.
pub(crate) fn mark_standby(pgdata: &Path) -> Result<(), Error> {
    let path = pgdata.join(SIGNAL);
    let file = fs::File::create(&path).map_err(Error::io("make", &path))?;
    file.sync_all().map_err(Error::io("flush", &path))?;
    fs::File::open(pgdata).and_then(|f| f.sync_all()).map_err(Error::io("flush", pgdata))
}

/// Sees to data that can follow `lead`'s primary: what is there if it follows already, else rewound to where it parted from
/// the primary, else copied from it. May be cut anywhere.
pub(crate) async fn prepare(checked: &Checked, member: &Membership, lead: &Lead) -> Result<(), Error> {
    let pgdata = &checked.pgdata;
    template::remove_leftovers(pgdata)?;
    let leader = member.member(&lead.primary)?;
    member.write_settings(checked, lead, &[])?;
    let marker = member.data(REWINDING);
    if !pgdata.exists() || marker.exists() || member.rebuild() == Rebuild::Copy {
        copy(checked, member, leader).await?;
    } else if (!is_standby(pgdata) || member.rebuild() == Rebuild::Rewind)
        && let Err(error) = rewind(checked, member, leader).await
    {
        // Half a rewind is no data; so is what the primary's log no longer reaches back to.
        tracing::warn!(error = error.chain(), "could not rewind; copying instead");
        copy(checked, member, leader).await?;
    }
    let _ = fs::remove_file(&marker);
    Ok(())
}

/// A base backup of the primary takes the place of what is there.
async fn copy(checked: &Checked, member: &Membership, leader: &Member) -> Result<(), Error> {
    let doing = format!("its data is copied from {}", leader.name);
    tracing::info!(doing, "making a standby");
    member.tell_down(&doing);
    let work = template::beside(&checked.pgdata)?;
    let mut command = tools::client(&checked.config.bin, "pg_basebackup")?;
    // Under a name of its own: no write may wait for what only copies.
    let name = format!("{} copy", member.config.name);
    command.arg("--dbname").arg(member.conninfo(checked, leader, &name, None)).arg("--pgdata").arg(&work);
    command.args(["--wal-method=stream", "--checkpoint=fast", "--no-password", "--slot"]);
    command.arg(Membership::slot(&member.config.name));
    tools::to_end(command, "pg_basebackup").await?;
    mark_standby(&work)?;
    if checked.pgdata.exists() {
        // Its name is that of unfinished work, so that a cut here leaves nothing behind.
        let old = work.with_extension("old");
        fs::rename(&checked.pgdata, &old).map_err(Error::io("set aside", &checked.pgdata))?;
        template::put(&work, &checked.pgdata)?;
        fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
    } else {
        template::put(&work, &checked.pgdata)?;
    }
    Ok(())
}

/// What this member wrote and the primary never had is undone.
async fn rewind(checked: &Checked, member: &Membership, leader: &Member) -> Result<(), Error> {
    let doing = format!("its data is rewound to that of {}", leader.name);
    tracing::info!(doing, "joining again");
    member.tell_down(&doing);
    let marker = member.data(REWINDING);
    let lock = checked.pgdata.join("postmaster.pid");
    if lock.exists() {
        // Whoever asks for a rewind has seen that nothing works in this folder; PostgreSQL only asks whether the number is
        // anybody's, and a killed server that is not reaped yet, or a stranger, keeps it.
        fs::remove_file(&lock).map_err(Error::io("remove", &lock))?;
        recover(checked).await?;
    }
    let mut command = tools::client(&checked.config.bin, "pg_rewind")?;
    command.arg("--source-server").arg(member.conninfo(checked, leader, "pg_rewind", Some("postgres")));
    command.arg("--target-pgdata").arg(&checked.pgdata);
    command.args(["--no-ensure-shutdown", "--config-file"]).arg(checked.conf.join("postgresql.conf"));
    fs::File::create(&marker).and_then(|f| f.sync_all()).map_err(Error::io("make", &marker))?;
    tools::to_end(command, "pg_rewind").await?;
    lacks_no_log(&checked.pgdata)?;
    mark_standby(&checked.pgdata)
}

/// Whether the log is there from where rewound data begins to replay. pg_rewind takes the primary's files in place of the
/// member's own, and the primary may have removed since what it needed no more itself: such a member would wait for ever.
fn lacks_no_log(pgdata: &Path) -> Result<(), Error> {
    let label = pgdata.join("backup_label");
    let text = fs::read_to_string(&label).map_err(Error::io("read", &label))?;
    let begins = text.lines().find_map(|l| l.strip_prefix("START WAL LOCATION: ")?.split_whitespace().next());
    let begins =
        begins.and_then(wal::lsn).ok_or_else(|| Error::Config(format!("{} is not understood", label.display())))?;
    let folder = pgdata.join("pg_wal");
    let (mut there, mut newest) = (BTreeMap::new(), None);
    for entry in fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
        let name = entry.map_err(Error::io("read", &folder))?.file_name();
        let name = name.to_string_lossy();
        if let Some(segment) = wal::Segment::parse(&name) {
            there.insert(segment, 0);
        } else if wal::is_archived(&name)
            && let Some(timeline) = name.strip_suffix(".history").and_then(|t| u32::from_str_radix(t, 16).ok())
        {
            newest = newest.max(Some(timeline));
        }
    }
    let path = match newest {
        Some(timeline) => {
            let file = folder.join(format!("{timeline:08X}.history"));
            wal::Path::of(timeline, &fs::read_to_string(&file).map_err(Error::io("read", &file))?)?
        }
        None => wal::Path::of(1, "")?,
    };
    let first = begins / wal::SEGMENT_BYTES;
    let reach = wal::reach(&path, first, &there);
    match reach.hole.or_else(|| reach.last.is_none().then(|| path.segment(first))) {
        Some(missing) => Err(Error::NotReady(format!("the primary has no {} any more", missing.name()))),
        None => Ok(()),
    }
}

/// Goes through what a killed server left in its log and ends in order, as pg_rewind wants it. pg_rewind would do so itself in
/// single-user mode, but that looks its user up by name, and a workload's user has none. Nobody can reach this server: it
/// listens on no address, and its socket lies in a folder that nobody is told of.
async fn recover(checked: &Checked) -> Result<(), Error> {
    tracing::info!("recovering what the killed server left");
    let mut options = settings::fixed(checked);
    let closed = [
        ("listen_addresses", String::new()),
        ("unix_socket_directories", checked.conf.display().to_string()),
        ("synchronous_standby_names", String::new()),
    ];
    options.extend(closed.map(|(name, value)| (name.to_owned(), value)));
    let bin = checked.config.bin.join("postgres");
    let child = tools::server(&checked.config.bin, &checked.pgdata, &options).map_err(Error::io("start", &bin))?;
    let mut server = Postmaster::child(child).map_err(Error::io("watch", &bin))?;
    let pid = server.pid().to_string();
    // The last line of its file tells when it is through.
    let ready = || {
        let text = fs::read_to_string(checked.pgdata.join("postmaster.pid")).unwrap_or_default();
        text.lines().next() == Some(&pid) && text.lines().nth(7).is_some_and(|state| state.trim() == "ready")
    };
    loop {
        tokio::select! {
            () = server.watch() => {
                return Err(Error::NotReady("the killed server's log cannot be gone through; see the log".into()));
            }
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
        if ready() {
            break;
        }
    }
    server.stop().await;
    Ok(())
}

/// Ends recovery: from now on this member takes writes. The record of who is safe is struck out before.
pub(crate) async fn promote(
    checked: &Checked,
    member: &Membership,
    admin: &Admin,
    server: &Postmaster,
    lead: &Lead,
) -> Result<(), Error> {
    let sql = || Error::sql("promote the server");
    let begun = Instant::now();
    member.record(lead.term, Vec::new())?;
    member.write_settings(checked, lead, &[])?;
    server.reload();
    let client = admin.connect("postgres").await.map_err(sql())?;
    // Before its first checkpoint as a primary: that removes the log from which the old one, once rewound, must replay.
    make_slots(&client, member).await?;
    let asked = client.query_one("SELECT CASE WHEN pg_is_in_recovery() THEN pg_promote(false) ELSE true END", &[]);
    asked.await.map_err(sql())?;
    while client.query_one("SELECT pg_is_in_recovery()", &[]).await.map_err(sql())?.get::<_, bool>(0) {
        tokio::time::sleep(ASK_AGAIN).await;
    }
    member.tell(Pulse { part: Part::Primary, pid: server.pid(), doing: "promoted".into(), ..Pulse::default() });
    tracing::info!(term = lead.term, milliseconds = begun.elapsed().as_millis() as u64, "this member leads now");
    Ok(())
}

/// What the others need of a primary: the role they come with, and a slot for each.
pub(crate) async fn open_to_others(admin: &Admin, member: &Membership) -> Result<(), Error> {
    let sql = || Error::sql("let the other members follow");
    let mut client = admin.connect("postgres").await.map_err(sql())?;
    let role = ident(REPLICATOR);
    let stored = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
    let stored = client.query_opt(stored, &[&REPLICATOR]).await.map_err(sql())?;
    let attributes = "LOGIN REPLICATION NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS";
    match stored.map(|row| row.get::<_, Option<String>>(0)) {
        Some(Some(stored)) if scram::matches(member.password(), &stored) => {}
        known => {
            let verb = if known.is_some() { "ALTER" } else { "CREATE" };
            let verifier = scram::verifier(member.password())?;
            set_verifier(&mut client, &format!("{verb} ROLE {role} {attributes}"), &verifier).await.map_err(sql())?;
        }
    }
    // What pg_rewind reads a primary's files by; a base backup gives as much.
    let rewind = ["pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)", "pg_read_binary_file(text)"];
    let mut statements = format!("GRANT CONNECT ON DATABASE postgres TO {role};");
    for function in rewind.into_iter().chain(["pg_read_binary_file(text, bigint, bigint, boolean)"]) {
        statements.push_str(&format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role};"));
    }
    client.batch_execute(&statements).await.map_err(sql())?;
    // A slot keeps the log for a member that is away; one that was cut off for too long is of no use any more.
    let slots: Vec<String> = member.others().map(|m| Membership::slot(&m.name)).collect();
    let list: Vec<String> = slots.iter().map(|s| literal(s)).collect();
    let stale = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT active \
         AND slot_name LIKE 'member\\_%' AND (wal_status = 'lost' OR NOT slot_name IN ({}))",
        list.join(", ")
    );
    client.batch_execute(&stale).await.map_err(sql())?;
    make_slots(&client, member).await
}

/// A slot for each other member, that keeps the log from the last checkpoint on.
async fn make_slots(client: &Client, member: &Membership) -> Result<(), Error> {
    let sql = || Error::sql("keep the log for the other members");
    for slot in member.others().map(|m| Membership::slot(&m.name)) {
        let make = "SELECT pg_create_physical_replication_slot($1, true) WHERE NOT EXISTS \
                    (SELECT 1 FROM pg_replication_slots WHERE slot_name = $1)";
        client.execute(make, &[&slot]).await.map_err(sql())?;
    }
    Ok(())
}

/// A standby keeps no log for others.
pub(crate) async fn drop_slots(admin: &Admin) -> Result<(), Error> {
    let sql = || Error::sql("drop the slots of earlier days");
    let client = admin.connect("postgres").await.map_err(sql())?;
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                WHERE slot_type = 'physical' AND NOT active AND slot_name LIKE 'member\\_%'";
    client.batch_execute(drop).await.map_err(sql())
}

/// A standby's days, until another word comes; gives that word.
pub(crate) async fn follow(
    checked: &Checked,
    member: &Membership,
    admin: &Admin,
    server: &Postmaster,
    mut lead: Lead,
) -> Lead {
    loop {
        let news = tokio::select! {
            news = member.other_word(&lead) => news,
            () = look_as_standby(member, admin, server) => continue,
        };
        if member.leads(&news) {
            return news;
        }
        if news.primary != lead.primary
            && let Err(error) = member.write_settings(checked, &news, &[])
        {
            tracing::error!(error = error.chain(), "could not follow another member");
            return news;
        }
        server.reload();
        lead = news;
    }
}

async fn look_as_standby(member: &Membership, admin: &Admin, server: &Postmaster) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let statement = "SELECT (coalesce(pg_last_wal_receive_lsn(), '0/0') - '0/0'::pg_lsn)::bigint, \
                         (coalesce(pg_last_wal_replay_lsn(), '0/0') - '0/0'::pg_lsn)::bigint, \
                         coalesce((SELECT status = 'streaming' FROM pg_stat_wal_receiver), false), \
                         (SELECT timeline_id FROM pg_control_checkpoint()), pg_is_in_recovery()";
        let Some(row) = ask(admin, statement).await else { continue };
        let streaming: bool = row.get(2);
        if streaming {
            member.mended();
        }
        let (received, replayed) = (row.get::<_, i64>(0) as u64, row.get::<_, i64>(1) as u64);
        member.tell(Pulse {
            part: if row.get(4) { Part::Standby } else { Part::None },
            pid: server.pid(),
            timeline: row.get::<_, i32>(3) as u32,
            wal: received.max(replayed),
            replayed,
            streaming,
            doing: if streaming { "follows".into() } else { "follows nobody: the log does not stream in".into() },
            ..Pulse::default()
        });
    }
}

/// One row, or none when the server did not answer in time.
async fn ask(admin: &Admin, statement: &str) -> Option<tokio_postgres::Row> {
    let asked = async { admin.kept().await.ok()?.query_one(statement, &[]).await.ok() };
    tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
}

/// A primary's days, until another leads; gives that word. The server serves on until its caller ends it.
pub(crate) async fn lead(
    checked: &Checked,
    member: &Membership,
    admin: &Admin,
    server: &Postmaster,
    lead: &Lead,
) -> Result<Lead, Error> {
    let news = tokio::select! {
        news = next_primary(member, lead) => news,
        failed = look_as_primary(checked, member, admin, server, lead) => return Err(failed),
    };
    // Most of what its end must write is written while it still serves.
    if let Ok(client) = admin.connect("postgres").await {
        let _ = client.batch_execute("CHECKPOINT").await;
    }
    Ok(news)
}

/// The word that another member leads. A newer term for this one changes nothing but the term.
async fn next_primary(member: &Membership, lead: &Lead) -> Lead {
    let mut known = lead.clone();
    loop {
        known = member.other_word(&known).await;
        if !member.leads(&known) {
            return known;
        }
    }
}

/// Keeps the others' standing and whom writes wait for; ends only with a failure.
async fn look_as_primary(
    checked: &Checked,
    member: &Membership,
    admin: &Admin,
    server: &Postmaster,
    lead: &Lead,
) -> Error {
    // After a promotion the control file says so only from the next checkpoint on, and pg_rewind reads it there.
    let settle = async {
        // It may still be starting.
        let client = loop {
            match admin.sign_in().await {
                SignIn::Done(client) => break client,
                SignIn::WrongPassword | SignIn::NotYet(_) => tokio::time::sleep(TICK).await,
            }
        };
        client.batch_execute("CHECKPOINT").await.map_err(Error::sql("settle after a promotion"))
    };
    let mut settled = false;
    tokio::pin!(settle);
    let begun = Instant::now();
    let partner = member.partner().map(|m| m.name.clone()).filter(|_| member.config.synchronous);
    let safe = partner.as_ref().is_some_and(|p| member.safe_with().contains(p));
    let go_on = member.config.go_on_after_ms.map(Duration::from_millis);
    let mut sync = Sync::new(partner.is_some(), go_on, safe);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            done = &mut settle, if !settled => match done {
                Ok(()) => settled = true,
                Err(error) => return error,
            },
            _ = tick.tick() => {}
        }
        let Some((mut pulse, seen)) = standing(admin, partner.as_deref()).await else { continue };
        pulse.pid = server.pid();
        pulse.settled = settled;
        while let Some(act) = sync.next(begun.elapsed(), seen) {
            let names = |yes: bool| partner.iter().filter(|_| yes).cloned().collect::<Vec<_>>();
            let done = match act {
                Act::Name(yes) => {
                    tracing::info!(waits_for = ?names(yes), "whom writes wait for");
                    member.write_settings(checked, lead, &names(yes)).map(|()| server.reload())
                }
                Act::Record(yes) => member.record(lead.term, names(yes)),
                Act::Settle => match settled_end(admin).await {
                    Ok(wal) => {
                        sync.named_up_to(wal);
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = done {
                return error;
            }
        }
        if sync.is_safe() {
            pulse.synchronous_with = partner.iter().cloned().collect();
        }
        pulse.doing = "leads".into();
        member.tell(pulse);
    }
}

/// Where the log ends, once every process of the server knows the present settings: the checkpointer, which keeps the switch
/// that commits look at, takes new settings up before it begins what it is asked for.
async fn settled_end(admin: &Admin) -> Result<u64, Error> {
    let sql = || Error::sql("have writes wait for the standby");
    let client: Client = admin.connect("postgres").await.map_err(sql())?;
    client.batch_execute("CHECKPOINT").await.map_err(sql())?;
    let end = client.query_one("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint", &[]).await;
    Ok(end.map_err(sql())?.get::<_, i64>(0) as u64)
}

/// How the primary and its followers stand.
async fn standing(admin: &Admin, partner: Option<&str>) -> Option<(Pulse, Option<Seen>)> {
    let statement = "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint, \
                     (SELECT timeline_id FROM pg_control_checkpoint()), \
                     coalesce(array_agg(application_name) FILTER (WHERE pid IS NOT NULL), '{}'), \
                     coalesce(array_agg(state) FILTER (WHERE pid IS NOT NULL), '{}'), \
                     coalesce(array_agg(coalesce(flush_lsn - '0/0'::pg_lsn, 0)::bigint) FILTER (WHERE pid IS NOT NULL), '{}'), \
                     coalesce(array_agg(coalesce(extract(epoch FROM replay_lag) * 1000, 0)::bigint) \
                              FILTER (WHERE pid IS NOT NULL), '{}'), \
                     coalesce(array_agg(sync_state IN ('sync', 'quorum')) FILTER (WHERE pid IS NOT NULL), '{}') \
                     FROM (SELECT 1) one LEFT JOIN pg_stat_replication ON usename = 'replicator' AND state IS NOT NULL";
    let row = ask(admin, statement).await?;
    let wal = row.get::<_, i64>(0) as u64;
    let names: Vec<String> = row.get(2);
    let states: Vec<String> = row.get(3);
    let flushed: Vec<i64> = row.get(4);
    let lags: Vec<i64> = row.get(5);
    let counted: Vec<bool> = row.get(6);
    let mut seen = None;
    let mut followers = Vec::new();
    for (n, name) in names.into_iter().enumerate() {
        let flushed = flushed[n] as u64;
        let behind = wal.saturating_sub(flushed);
        let streaming = states[n] == "streaming";
        if partner == Some(name.as_str()) && (streaming || seen.is_none()) {
            seen = Some(Seen { streaming, counted: counted[n], flushed, behind });
        }
        let state = states[n].clone();
        followers.push(Follower { name, state, behind_bytes: behind, behind_ms: lags[n].max(0) as u64 });
    }
    let timeline = row.get::<_, i32>(1) as u32;
    Some((Pulse { part: Part::Primary, timeline, wal, followers, ..Pulse::default() }, seen))
}
