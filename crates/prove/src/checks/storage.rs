//! The database's disk: its size, what is refused beyond, how it grows, how fast it is.
//!
//! What fills a disk does so on a stamp of its own with a small one; a size that is declared is looked at where it is declared.

use std::{
    fs,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use drivers::volume::{self, Use};
use rustix::fs::{FallocateFlags, fallocate};
use tokio_postgres::Client;

use crate::{Lab, Miss, Seen, Site, checks::members, claim::Call, miss, must, sabotage, site::until_in};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// A disk is filled at some ten MiB a second on a slow machine.
const LONG: Duration = Duration::from_secs(120);
/// A row of the filling, bytes; kept as it is.
const ROW: usize = 64 * 1024;
/// What a query may take while the disk is written full and grows.
const NORMAL: Duration = Duration::from_secs(2);
const FILL: &str = "CREATE TABLE IF NOT EXISTS check_fill (n bigint PRIMARY KEY, body text NOT NULL); \
                    ALTER TABLE check_fill ALTER COLUMN body SET STORAGE EXTERNAL";

fn shim(site: &Site, workload: &str) -> Result<u32, Miss> {
    site.pids(workload).first().copied().ok_or_else(|| Miss::Failed(format!("{workload} does not run")))
}

fn data(site: &Site, workload: &str) -> Result<PathBuf, Miss> {
    let place = site.places.get(workload).ok_or_else(|| Miss::Failed(format!("{workload} has no place")))?;
    Ok(place.join("data"))
}

/// What the kernel says of a database's disk.
fn disk(site: &Site, workload: &str) -> Result<Use, Miss> {
    if let Some(seen) = volume::look(shim(site, workload)?, &data(site, workload)?) {
        return Ok(seen);
    }
    let refused = site.missing.iter().find(|m| m.contains("disk"));
    match refused {
        Some(refused) => {
            Err(Miss::NotHere { why: "this machine gives no disks of a size".into(), command: refused.clone() })
        }
        None => miss!("{workload} has no disk of its own"),
    }
}

fn size(text: &str) -> Result<u64, Miss> {
    Ok(model::unit::bytes(text).map_err(Miss::Failed)?.0)
}

/// A stamp of its own whose database has another disk, beside those that are declared.
async fn small(lab: &Lab, stamp: &str, storage: &str) -> Result<Arc<Site>, Miss> {
    lab.changed(stamp, &format!("[stamps.{stamp}]\npostgres.main.storage = {{ {storage} }}\n")).await
}

async fn one(client: &Client, sql: &str) -> Result<String, Miss> {
    let rows = crate::sql::rows(client, sql).await?;
    Ok(rows.first().and_then(|row| row.first()).cloned().unwrap_or_default())
}

/// `storage_refused(DATABASE, SIZE)`.
pub async fn refused(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (database, declared) = (c.argument(0, "postgres.main"), size(c.argument(1, "32GiB"))?);
    let seen = disk(&*lab.site(on).await?, database)?;
    must!(seen.bytes == declared, "the disk of {database} in {on} has {} bytes, not {declared}", seen.bytes);
    // As large as there, and it does not grow: filled without writing, since blocks that are only taken need no room below.
    let stamp = format!("full{on}");
    let site = small(lab, &stamp, &format!("size = \"{}\", grow = false", c.argument(1, "32GiB"))).await?;
    let looked = past_its_size(&site, database, declared).await;
    lab.down(&stamp).await?;
    Ok(format!("{} GiB in {on}; {}", seen.bytes / GIB, looked?))
}

async fn past_its_size(site: &Site, database: &str, declared: u64) -> Result<String, Miss> {
    let before = disk(site, database)?;
    must!(before.bytes == declared, "a disk of {} bytes, not {declared}", before.bytes);
    let owner = sabotage::owner(site).await?;
    owner.batch_execute(FILL).await?;
    let path = volume::inside(shim(site, database)?, &data(site, database)?).join("check-takes-room");
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    let take = |bytes: u64| fallocate(&file, FallocateFlags::empty(), 0, bytes);
    let tried = async {
        take(before.free - 256 * MIB)?;
        let room = disk(site, database)?.free;
        must!(room < 300 * MIB, "{room} bytes are free although all but 256 MiB are taken");
        let Err(refused) = take(declared) else { miss!("{declared} bytes were taken beside what was there") };
        must!(refused == rustix::io::Errno::NOSPC, "past its size the kernel says: {refused}");
        let full = disk(site, database)?;
        must!(
            full.free < MIB && full.used <= declared + MIB,
            "{} bytes used of {declared}, {} free",
            full.used,
            full.free
        );
        let row = "INSERT INTO check_fill VALUES (1, repeat('x', 1000))";
        let words = until_in("the database refuses a row", LONG, async || match owner.batch_execute(row).await {
            Ok(()) => miss!("the row was taken"),
            Err(error) => Ok(error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned())),
        })
        .await?;
        Ok(format!("past {} GiB the kernel says \"{refused}\", the database: {words}", declared / GIB))
    };
    let told = tried.await;
    drop(file);
    fs::remove_file(&path)?;
    told
}

/// How queries went beside something.
#[derive(Default)]
struct Queries {
    stop: AtomicBool,
    count: AtomicU64,
    longest_us: AtomicU64,
}

/// Asks and writes until told to stop; every failure ends it.
async fn ask(client: Client, queries: Arc<Queries>) -> Result<(), Miss> {
    while !queries.stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        client.batch_execute("INSERT INTO check_beside DEFAULT VALUES; SELECT count(*) FROM check_beside").await?;
        let took = begun.elapsed().as_micros() as u64;
        queries.longest_us.fetch_max(took, Ordering::Relaxed);
        queries.count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn fill(client: &Client, from: &mut u64, rows: u64) -> Result<(), tokio_postgres::Error> {
    let sql = format!(
        "INSERT INTO check_fill SELECT n, repeat(md5(n::text), {}) FROM generate_series({}, {}) n",
        ROW / 32,
        *from + 1,
        *from + rows
    );
    client.batch_execute(&sql).await?;
    *from += rows;
    Ok(())
}

/// `storage_grows(DATABASE)` or `storage_grows(DATABASE, SIZE)`: with a size, the disk of the stamp itself has it, and grows.
pub async fn grows(lab: &Lab, on: &str, c: &Call) -> Seen {
    let database = c.argument(0, "postgres.main");
    let mut told = String::new();
    if let Some(text) = c.arguments.get(1) {
        let declared = size(text)?;
        let site = lab.site(on).await?;
        let seen = disk(&site, database)?;
        must!(seen.bytes == declared, "the disk of {database} in {on} has {} bytes, not {declared}", seen.bytes);
        let status = members::status(&site).await?;
        let says = status.resources.iter().find(|r| r.name == database).and_then(|r| r.storage);
        must!(says.is_some_and(|s| s.grows), "the disk of {database} in {on} does not grow");
        told = format!("{} GiB in {on}, it grows; scaled down: ", seen.bytes / GIB);
    }
    let stamp = format!("grow{on}");
    // Whether it grows is not named: what is on by default counts.
    let site = small(lab, &stamp, "size = \"256MiB\"").await?;
    let grown = past_its_threshold(&site, database).await;
    lab.down(&stamp).await?;
    Ok(format!("{told}{}", grown?))
}

async fn past_its_threshold(site: &Site, database: &str) -> Result<String, Miss> {
    let before = disk(site, database)?;
    must!(before.bytes == 256 * MIB, "a disk of 256 MiB has {} bytes", before.bytes);
    let owner = sabotage::owner(site).await?;
    owner.batch_execute(FILL).await?;
    owner.batch_execute("CREATE TABLE check_beside (n bigint GENERATED ALWAYS AS IDENTITY)").await?;
    let started = one(&owner, "SELECT pg_postmaster_start_time()").await?;
    let queries = Arc::new(Queries::default());
    let asking = tokio::spawn(ask(sabotage::owner(site).await?, queries.clone()));
    let mut rows = 0;
    let grown = until_in("the disk grows", LONG, async || {
        let seen = disk(site, database)?;
        if seen.bytes > before.bytes {
            return Ok(seen);
        }
        let written = fill(&owner, &mut rows, 32).await;
        miss!("{} of {} MiB used, {written:?}", seen.used / MIB, seen.bytes / MIB)
    })
    .await;
    // Writes go on into what was added.
    let after = match &grown {
        Ok(_) => fill(&owner, &mut rows, 320).await.map_err(Miss::from),
        Err(_) => Ok(()),
    };
    queries.stop.store(true, Ordering::Relaxed);
    let asked = asking.await.map_err(|e| Miss::Failed(e.to_string()))?;
    let grown = grown?;
    after?;
    asked?;
    must!(one(&owner, "SELECT pg_postmaster_start_time()").await? == started, "the server was started anew");
    let longest = Duration::from_micros(queries.longest_us.load(Ordering::Relaxed));
    let count = queries.count.load(Ordering::Relaxed);
    must!(count > 10, "only {count} queries ran beside the growth");
    must!(longest < NORMAL, "beside the growth a query took {} ms", longest.as_millis());
    let sql =
        format!("SELECT body FROM logs WHERE source LIKE '{database}%' AND body LIKE '%the disk has grown%' LIMIT 1");
    let event = site.query_until("the growth in the telemetry", &sql, |rows| !rows.is_empty()).await?;
    let of = site.of();
    let path = format!("/acts?system={}&stamp={}", of.system, of.stamp);
    let acts: serde_json::Value = site.supervisor.get(&path).await?;
    must!(acts.to_string().contains("stamp.storage.grow"), "no act of the supervisor says that the disk grew");
    let event = event[0][0].as_str().unwrap_or_default().to_owned();
    Ok(format!(
        "at {} of 256 MiB it grew to {} MiB; \"{}\" in the telemetry, an act in the record; {count} queries beside it, none failed, \
         the longest took {} ms",
        grown.used / MIB,
        grown.bytes / MIB,
        event
            .split("the disk")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .map_or(event.clone(), |rest| format!("the disk{rest}")),
        longest.as_millis()
    ))
}

/// `full_disk(DATABASE)`.
pub async fn full(lab: &Lab, _: &str, c: &Call) -> Seen {
    let database = c.argument(0, "postgres.main");
    let site = small(lab, "fulldisk", "size = \"256MiB\", grow = false").await?;
    let told = filled(lab, &site, database).await;
    lab.down("fulldisk").await?;
    told
}

async fn filled(lab: &Lab, site: &Site, database: &str) -> Result<String, Miss> {
    must!(disk(site, database)?.bytes == 256 * MIB, "a disk of 256 MiB has another size");
    let owner = sabotage::owner(site).await?;
    owner.batch_execute(FILL).await?;
    let started = one(&owner, "SELECT pg_postmaster_start_time()").await?;
    let mut rows = 0;
    let refused = until_in("a write is refused", LONG, async || match fill(&owner, &mut rows, 16).await {
        Ok(()) => miss!("{rows} rows were taken"),
        Err(error) => match error.as_db_error() {
            Some(said) => Ok(format!("{} ({})", said.message(), said.code().code())),
            None => Err(Miss::Failed(error.to_string())),
        },
    })
    .await?;
    must!(refused.contains("read-only") || refused.contains("No space left"), "a write was refused with: {refused}");
    let kept = one(&owner, "SELECT count(*) FROM check_fill").await?;
    must!(kept == rows.to_string(), "{rows} rows were acknowledged, {kept} are there");
    must!(one(&owner, "SELECT pg_postmaster_start_time()").await? == started, "the full server was started anew");
    let diagnosis = until_in("`stamp status` says why", LONG, async || {
        let status = members::status(site).await?;
        let note = status.resources.iter().find(|r| r.name == database).map(|r| r.note.clone()).unwrap_or_default();
        must!(note.contains("disk is full") && note.contains("storage.grow"), "the note is: {note}");
        Ok(note)
    })
    .await?;
    let mended = small(lab, "fulldisk", "size = \"256MiB\", grow = true").await?;
    until_in("writes go on", LONG, async || fill(&owner, &mut rows, 16).await.map_err(Miss::from)).await?;
    let seen = disk(&mended, database)?;
    must!(seen.bytes > 256 * MIB, "it is still of {} bytes", seen.bytes);
    Ok(format!(
        "full: \"{refused}\", all {kept} rows read; status: \"{diagnosis}\"; with grow = true it has {} MiB and takes writes",
        seen.bytes / MIB
    ))
}

/// `iops(DATABASE, AT LEAST)`.
pub async fn iops(lab: &Lab, on: &str, c: &Call) -> Seen {
    const FILE: u64 = 256 * MIB;
    const READERS: u64 = 8;
    const TIME: Duration = Duration::from_secs(3);
    let (database, least) = (c.argument(0, "postgres.main"), c.argument(1, "3000").parse::<u64>()?);
    let site = lab.site(on).await?;
    let path = volume::inside(shim(&site, database)?, &data(&site, database)?).join("check-iops");
    let own = path.clone();
    let measured = tokio::task::spawn_blocking(move || measure(&own, FILE, READERS, TIME)).await;
    fs::remove_file(&path)?;
    let count = measured.map_err(|e| Miss::Failed(e.to_string()))??;
    let rate = count * 1000 / TIME.as_millis() as u64;
    must!(rate >= least, "{rate} random reads a second, fewer than {least}");
    Ok(format!("{rate} random reads of 8 KiB a second past the page cache, by {READERS} readers"))
}

#[repr(align(4096))]
struct Page([u8; 8192]);

/// Random reads of 8 KiB in a file that was written, past every page cache. Gives their number.
fn measure(path: &Path, bytes: u64, readers: u64, time: Duration) -> Result<u64, Miss> {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let mut page = Page([0; 8192]);
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut block = vec![0_u8; MIB as usize];
    for at in 0..bytes / MIB {
        // No two blocks alike: nothing below can keep one for the other.
        for (n, word) in block.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&(at * MIB + n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        }
        file.write_all_at(&block, at * MIB)?;
    }
    file.sync_all()?;
    let file = Arc::new(fs::OpenOptions::new().read(true).custom_flags(direct).open(path)?);
    file.read_exact_at(&mut page.0, 0)?;
    let until = Instant::now() + time;
    let read = |file: Arc<fs::File>, seed: u64| -> std::io::Result<u64> {
        let (mut page, mut state, mut count) = (Page([0; 8192]), seed, 0);
        while Instant::now() < until {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            file.read_exact_at(&mut page.0, (state >> 33) % (bytes / 8192) * 8192)?;
            count += 1;
        }
        Ok(count)
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..readers)
            .map(|n| {
                scope.spawn({
                    let file = file.clone();
                    move || read(file, n)
                })
            })
            .collect();
        let mut sum = 0;
        for one in all {
            sum += one.join().map_err(|_| Miss::Failed("a reader failed".into()))??;
        }
        Ok(sum)
    })
}

/// `slow_query_mended(DATABASE)`.
pub async fn slow_query_mended(lab: &Lab, on: &str, c: &Call) -> Seen {
    let database = c.argument(0, "postgres.main");
    let site = lab.site(on).await?;
    let owner = sabotage::owner(&site).await?;
    let table = format!("check_slow_{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    owner
        .batch_execute(&format!(
            "CREATE TABLE {table} AS SELECT (n * 7919) % 200003 AS k, n AS v FROM generate_series(1, 200003) n; ANALYZE {table}"
        ))
        .await?;
    let looked = async {
        let query = |mark: &str| {
            format!(
                "SELECT count(v) AS {mark} FROM generate_series(1, 400) g, LATERAL (SELECT v FROM {table} WHERE k = g * 499 LIMIT 1) found"
            )
        };
        let timed = async |mark: &str| -> Result<Duration, Miss> {
            let begun = Instant::now();
            one(&owner, &query(mark)).await?;
            Ok(begun.elapsed())
        };
        let (first, second) = (format!("{table}_without"), format!("{table}_with"));
        let slow = timed(&first).await?;
        // Its text may be on the line of its duration or on one before, of the same process.
        let reported = |mark: &str| {
            format!(
                "SELECT d.body FROM logs s JOIN logs d ON d.source = s.source AND d.time_ns >= s.time_ns \
                 WHERE s.source LIKE '{database}%' AND s.body LIKE '%{mark}%' AND d.body LIKE '%duration:%' \
                 AND substr(d.body, instr(d.body, '['), 8) = substr(s.body, instr(s.body, '['), 8) ORDER BY d.time_ns LIMIT 50"
            )
        };
        let duration = |body: &str| {
            let text = body.split("duration: ").nth(1)?.split(" ms").next()?;
            text.parse::<f64>().ok().map(|ms| Duration::from_secs_f64(ms / 1000.0))
        };
        // Other statements of the connection were slow as well.
        let its = |rows: &[Vec<serde_json::Value>]| {
            let all = rows.iter().filter_map(|row| duration(row.first()?.as_str()?));
            all.filter(|took| *took <= slow && *took * 10 > slow * 9).max()
        };
        let found =
            site.query_until("the slow query in the telemetry", &reported(&first), |rows| its(rows).is_some()).await?;
        owner.batch_execute(&format!("CREATE INDEX ON {table} (k); ANALYZE {table}")).await?;
        let fast = timed(&second).await?;
        must!(fast * 10 < slow, "{} ms without the index, {} ms with it", slow.as_millis(), fast.as_millis());
        Ok(format!(
            "reported with {} ms; measured {} ms without the index, {:.1} ms with it",
            its(&found).unwrap_or_default().as_millis(),
            slow.as_millis(),
            fast.as_secs_f64() * 1000.0
        ))
    };
    let told = looked.await;
    owner.batch_execute(&format!("DROP TABLE {table}")).await?;
    told
}
