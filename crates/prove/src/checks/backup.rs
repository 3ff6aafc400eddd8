//! Backups that restore: to a moment, after days, and from the copy of another region.

use std::{collections::BTreeMap, time::Duration};

use api::{
    backup::{BackupAnswer, Base, Target},
    supervisor::{BackupList, BackupOf, Event, RecoveryKey, RestoreRequest, Restored, StampRef, SwapAct, SwapRequest},
};

use rustix::process::Signal;

use crate::{
    Error, Lab, Miss, Seen, Site,
    claim::Call,
    harm,
    inside::{Ask, Saw},
    miss, must, patched,
    site::{until, until_in},
};

const DAY_MS: i64 = 86_400_000;
/// A base backup and a restore of what a scratch stamp holds take seconds.
const LONG: Duration = Duration::from_secs(120);

/// What a part of the log may take from its end to where it is kept.
const ON_ITS_WAY: Duration = Duration::from_secs(15);

/// How long before a part of the log is due the database is lost.
const BEFORE_DUE: Duration = Duration::from_secs(20);

/// Rows that are written, wrecked and read, of a file of the system's checks: `{mark}` is different in each run.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    /// One more row; `{number}` counts them.
    write: String,
    /// Every row of this run, in order.
    read: String,
    /// The mistake.
    wreck: String,
}

/// The service's own way to the database, and the rows of one run.
struct Work<'a> {
    service: &'a str,
    variable: &'a str,
    rows: Rows,
    mark: String,
}

impl<'a> Work<'a> {
    /// From the arguments SERVICE, VARIABLE, FILE, from `at` on.
    fn of(lab: &Lab, c: &'a Call, at: usize) -> Result<Self, Miss> {
        let file = format!("checks/{}.toml", c.argument(at + 2, "restore"));
        let fault = |what: String| Error::File { file: file.clone(), what };
        let rows = toml_edit::de::from_str(&lab.file(&file)?).map_err(|e| fault(e.to_string()))?;
        let mark = uuid::Uuid::new_v4().simple().to_string()[..8].to_uppercase();
        Ok(Self { service: c.argument(at, "web"), variable: c.argument(at + 1, ""), rows, mark })
    }

    async fn sql(&self, site: &Site, statement: &str) -> Result<Vec<String>, Miss> {
        let ask =
            Ask::Sql { variable: self.variable.into(), statements: vec![statement.replace("{mark}", &self.mark)] };
        let saw = site.inside(self.service, &[ask]).await?;
        let Some(Saw::Sql(rows)) = saw.first() else { miss!("{statement}: {saw:?}") };
        Ok(rows.first().into_iter().flatten().filter_map(|row| row.first().cloned()).collect())
    }

    /// Rows of every table, as the service sees them. A table that leaves no trace in the log is a miss: no backup has it.
    async fn census(&self, site: &Site) -> Result<Vec<String>, Miss> {
        let tables = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                      WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema$)'";
        let unlogged = self.sql(site, &format!("{tables} AND c.relpersistence = 'u'")).await?;
        must!(unlogged.is_empty(), "these tables are not in the log, and so in no backup: {}", unlogged.join(", "));
        let tables = self.sql(site, &format!("{tables} ORDER BY 1")).await?;
        let counts: Vec<String> =
            tables.iter().map(|t| format!("SELECT {} || ' ' || count(*) FROM {t}", quoted(t))).collect();
        must!(!counts.is_empty(), "the database has no tables");
        self.sql(site, &format!("{} ORDER BY 1", counts.join(" UNION ALL "))).await
    }

    async fn write(&self, site: &Site, number: u32) -> Result<(), Miss> {
        self.sql(site, &self.rows.write.replace("{number}", &format!("{number:03}"))).await.map(drop)
    }

    /// As [`Self::write`], with the server's time afterwards, in milliseconds.
    async fn marked(&self, site: &Site, number: usize) -> Result<u128, Miss> {
        self.write(site, u32::try_from(number)?).await?;
        Ok(u128::try_from(self.now(site).await?)?)
    }

    async fn read(&self, site: &Site) -> Result<Vec<String>, Miss> {
        self.sql(site, &self.rows.read).await
    }

    /// The server's time, in milliseconds.
    async fn now(&self, site: &Site) -> Result<i64, Miss> {
        let now = self.sql(site, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").await?;
        now.first().and_then(|n| n.parse().ok()).ok_or_else(|| Miss::Failed(format!("the server's time is {now:?}")))
    }

    /// The rows as a restored database has them, by the service's own role and password.
    async fn read_beside(&self, site: &Site, restored: &Restored) -> Result<Vec<String>, Miss> {
        let vault = site.vault(&format!("service.{}", self.service)).await?;
        let secret = referred(&site.manifest, self.service, self.variable)?;
        let answer = vault.send("GET", &format!("/secrets/{secret}?api-version=7.4"), None).await?;
        let value: serde_json::Value = serde_json::from_slice(&answer.body)?;
        let (_, name) = restored.name.split_once('.').unwrap_or_default();
        let (_, origin) = restored.origin.split_once('.').unwrap_or_default();
        let mut way = site.way(&restored.name)?;
        let named = site.hosts.keys().find(|host| host.starts_with(&format!("{origin}.postgres.")));
        // Its own certificate names it as its origin's names that.
        if let Some(rest) = named.and_then(|host| host.strip_prefix(origin)) {
            way.name = format!("{name}{rest}");
        }
        let client = crate::sql::connect_by(value["value"].as_str().unwrap_or_default(), &way).await?;
        let rows = crate::sql::rows(&client, &self.rows.read.replace("{mark}", &self.mark)).await?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next()).collect())
    }
}

/// Long work of the supervisor, to its end.
/// Whether a file is an ext4 file system: its superblock begins at byte 1024, with the magic number at 56 (ext4(5)).
fn is_disk(path: &std::path::Path) -> bool {
    use std::os::unix::fs::FileExt as _;
    let mut magic = [0; 2];
    let read = std::fs::File::open(path).and_then(|file| file.read_exact_at(&mut magic, 1024 + 56));
    read.is_ok() && magic == [0x53, 0xef]
}

/// The secret that a variable of a service is a reference to.
fn referred(manifest: &str, service: &str, variable: &str) -> Result<String, Miss> {
    let document: toml_edit::DocumentMut = manifest.parse()?;
    let value = document.get("service").and_then(|s| s.get(service)?.get("env")?.get(variable)?.as_str());
    let name = value.and_then(|v| v.split_once("SecretName=")?.1.split([';', ')']).next());
    name.map(str::to_owned).ok_or_else(|| Miss::Failed(format!("{variable} of {service} is no reference to a secret")))
}

/// As a text of SQL.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

async fn work(site: &Site, path: &str, body: &serde_json::Value) -> Result<Event, Miss> {
    let client = site.supervisor.clone().timeout(Duration::from_secs(600));
    let answer = client.send("POST", path, Some(("application/json", body.to_string().into()))).await?;
    let last = answer.body.split(|b| *b == b'\n').rfind(|line| !line.is_empty()).unwrap_or_default();
    match serde_json::from_slice(last)? {
        Event::Failed(failure) => miss!("{path}: {} {}", failure.message, failure.causes.join(": ")),
        event => Ok(event),
    }
}

pub async fn restore(site: &Site, target: Target) -> Result<Restored, Miss> {
    let StampRef { system, stamp } = site.of();
    let request = RestoreRequest { system, stamp, resource: None, target, name: None, verify: false, database: None };
    match work(site, "/restore", &serde_json::to_value(&request)?).await? {
        Event::Restored(restored) => Ok(*restored),
        other => miss!("a restore ended with {other:?}"),
    }
}

pub async fn swap(site: &Site, act: SwapAct) -> Result<Restored, Miss> {
    let StampRef { system, stamp } = site.of();
    let request = SwapRequest { system, stamp, resource: None, act, database: None };
    match work(site, "/swap", &serde_json::to_value(&request)?).await? {
        Event::Restored(restored) => Ok(*restored),
        other => miss!("a swap ended with {other:?}"),
    }
}

/// What the first database can be gone back to.
pub async fn backups(site: &Site) -> Result<BackupList, Miss> {
    let StampRef { system, stamp } = site.of();
    let mut all: Vec<BackupList> = site.supervisor.get(&format!("/backups?system={system}&stamp={stamp}")).await?;
    all.pop().ok_or_else(|| Miss::Failed("the stamp has no database".into()))
}

async fn back_up(site: &Site, point: Option<String>) -> Result<BackupAnswer, Miss> {
    let StampRef { system, stamp } = site.of();
    let client = site.supervisor.clone().timeout(LONG);
    Ok(client.post("/backup", &BackupOf { system, stamp, resource: None, point }).await?)
}

/// A base backup that is taken now.
pub async fn base(site: &Site) -> Result<Base, Miss> {
    let name = back_up(site, None).await?.name.ok_or_else(|| Miss::Failed("a base backup has no name".into()))?;
    until_in("the base backup", LONG, async || {
        let list = backups(site).await?;
        let found = list.backups.bases.iter().find(|b| b.name == name && list.backups.running.is_none());
        found.cloned().ok_or_else(|| Miss::Failed(format!("{:?}, {:?}", list.backups.running, list.backups.trouble)))
    })
    .await
}

/// `point_in_time(SERVICE, VARIABLE, FILE)`.
pub async fn point_in_time(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let work = Work::of(lab, c, 0)?;
    base(&site).await?;
    let mut moments = Vec::new();
    for number in 1..=6 {
        work.write(&site, number).await?;
        moments.push(work.now(&site).await?);
    }
    let all = work.read(&site).await?;
    must!(all.len() == 6, "6 rows were written, {} are there", all.len());
    let restored = restore(&site, Target::Time { ms: moments[3] }).await?;
    let fresh = lab.restore(on).await?;
    let seen = work.read_beside(&fresh, &restored).await;
    swap(&fresh, SwapAct::Discard).await?;
    let seen = seen?;
    must!(seen == all[..4], "the moment after the fourth of six rows: {seen:?}");
    must!(work.read(&fresh).await? == all, "the database that serves was changed by a restore");
    let stopped = restored.restore.and_then(|r| r.stopped).unwrap_or_default();
    Ok(format!(
        "6 rows, restored to the moment after the fourth within {:.1} s: 4 rows; recovery stopped {stopped}",
        restored.milliseconds as f64 / 1000.0
    ))
}

/// `backups_sealed(SERVICE, VARIABLE, FILE)`: a row's mark lies in the database's own files, in no file of its backups, and is
/// there again in what is restored from these.
pub async fn sealed(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let work = Work::of(lab, c, 0)?;
    work.write(&site, 1).await?;
    base(&site).await?;
    let point = format!("sealed-{}", work.mark.to_lowercase());
    back_up(&site, Some(point.clone())).await?;
    let place = site.places.get(&site.first("postgres")?).cloned().unwrap_or_default();
    let folder = place.join("backups");
    let files = super::vault::files_with(&place, work.mark.as_bytes());
    let (sealed, own): (Vec<_>, Vec<_>) =
        files.iter().partition(|path| std::path::Path::new(path).starts_with(&folder));
    must!(!own.is_empty(), "the mark is in no file of the database: the search would find nothing anywhere");
    must!(sealed.is_empty(), "the mark lies readable in {sealed:?}");
    let kept = std::fs::read_dir(&folder)?.count();
    must!(kept > 0, "{} is empty", folder.display());
    let restored = restore(&site, Target::Point { name: point }).await?;
    let fresh = lab.restore(on).await?;
    let seen = work.read_beside(&fresh, &restored).await;
    swap(&fresh, SwapAct::Discard).await?;
    let (seen, rows) = (seen?, work.read(&fresh).await?);
    must!(seen == rows && !rows.is_empty(), "of {rows:?} the backup has {seen:?}");
    Ok(format!("in {} files of the database, in none under {}; restored: {seen:?}", own.len(), folder.display()))
}

/// `mistake_undone(SERVICE, VARIABLE, FILE)`.
pub async fn mistake_undone(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let work = Work::of(lab, c, 0)?;
    base(&site).await?;
    for number in 1..=5 {
        work.write(&site, number).await?;
    }
    let before = work.read(&site).await?;
    let census = work.census(&site).await?;
    let moment = work.now(&site).await?;
    until("the clock goes on", async || {
        let now = work.now(&site).await?;
        must!(now > moment + 1, "it is {now}");
        Ok(())
    })
    .await?;
    let begun = std::time::Instant::now();
    work.sql(&site, &work.rows.wreck).await?;
    must!(work.read(&site).await?.is_empty(), "the mistake left {:?}", work.read(&site).await?);
    let restored = restore(&site, Target::Time { ms: moment }).await?;
    let swapped = swap(&site, SwapAct::Swap).await?;
    let fresh = lab.restore(on).await?;
    let after = work.read(&fresh).await?;
    must!(after == before, "before the mistake {before:?}, after the swap {after:?}");
    let counted = work.census(&fresh).await?;
    let lost = lacking(&census, &counted);
    must!(lost.is_empty(), "before the mistake there were {lost:?}, after the swap {counted:?}");
    let seconds = begun.elapsed().as_secs_f64();
    let kept = swapped.kept.unwrap_or_default();
    must!(kept.join("PG_VERSION").exists() || is_disk(&kept), "the data of before is not kept in {}", kept.display());
    swap(&fresh, SwapAct::Forget).await?;
    Ok(format!(
        "{} rows were deleted; restored as {} to the second before and swapped in: the application reads all of them again {seconds:.1} s after the mistake; the damaged data lay in {}",
        before.len(),
        restored.name,
        kept.display()
    ))
}

/// `log_within(SECONDS, SERVICE, VARIABLE, FILE)`: a row a second, and nobody asks for a backup. A part of the log comes by itself
/// when it is due; a database that is lost before lacks the rows since the part before, one that is lost after it has them.
pub async fn log_within(lab: &Lab, on: &str, c: &Call) -> Seen {
    let within = Duration::from_secs(c.argument(0, "300").parse()?);
    let site = lab.site(on).await?;
    let work = Work::of(lab, c, 1)?;
    let archive = async || Ok::<_, Miss>(backups(&site).await?.backups.archive);
    let mut moments = vec![work.marked(&site, 1).await?];
    base(&site).await?;
    // The base backup ends a part of the log; the next must end by itself.
    let before = until("the log of the base backup", async || {
        let now = archive().await?;
        must!(now.waiting == 0 && now.last.is_some(), "{} parts wait", now.waiting);
        Ok(now.last)
    })
    .await?;
    let begun = std::time::Instant::now();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut lost = None;
    let came = loop {
        second.tick().await;
        moments.push(work.marked(&site, moments.len() + 1).await?);
        if archive().await?.last != before {
            break begun.elapsed();
        }
        let waited = begun.elapsed();
        must!(waited < within + ON_ITS_WAY, "no part of the log was backed up within {} s", waited.as_secs());
        if lost.is_none() && waited + BEFORE_DUE > within {
            lost = Some(lost_now(lab, on, &work, &moments).await?);
        }
    };
    let Some(lost) = lost else { miss!("a part of the log came after {} s, long before it was due", came.as_secs()) };
    must!(lost > 0 && lost < came.as_millis(), "{lost} ms of rows were lost before a part came");
    let after = lost_now(lab, on, &work, &moments).await?;
    must!(after < lost, "lost with the next part of the log: {after} ms of rows, without it {lost} ms");
    Ok(format!(
        "{} rows, one a second; a part of the log came {:.0} s after the one before; the database lost and restored from its backups: {:.1} s of rows are gone before that part, {:.1} s after it",
        moments.len(),
        came.as_secs_f64(),
        lost as f64 / 1000.0,
        after as f64 / 1000.0
    ))
}

/// Has the database answer nobody, as one that is lost, and restores what its backups hold: the milliseconds of rows that are gone.
async fn lost_now(lab: &Lab, on: &str, work: &Work<'_>, moments: &[u128]) -> Result<u128, Miss> {
    let site = lab.site(on).await?;
    let database = site.first("postgres")?;
    let Some(door) = site.controls.get(&database) else { miss!("{database} does not run") };
    // Out of reach before it is stopped: what is asked of a stopped process, such as to end its log, it does when it goes on.
    let aside = door.with_extension("aside");
    std::fs::rename(door, &aside)?;
    let stopped = harm::all_of(&site, &database, Signal::STOP);
    let restored = match &stopped {
        Ok(_) => restore(&site, Target::Latest).await,
        Err(_) => Err(Miss::Failed(format!("{database} was not stopped"))),
    };
    for pid in stopped.into_iter().flatten() {
        let _ = harm::signal(pid, Signal::CONT);
    }
    std::fs::rename(&aside, door)?;
    // It answers again before the stamp is looked at as a whole.
    let control = site.control(&database)?;
    until("the database that was lost", async || Ok(control.get::<serde_json::Value>("/status").await.map(drop)?))
        .await?;
    let restored = restored?;
    let fresh = lab.restore(on).await?;
    let seen = work.read_beside(&fresh, &restored).await;
    swap(&fresh, SwapAct::Discard).await?;
    let (seen, all) = (seen?, work.read(&fresh).await?);
    must!(all.len() == moments.len(), "{} rows were written, {} are there", moments.len(), all.len());
    must!(!seen.is_empty() && all.starts_with(&seen), "of {} rows there are {seen:?}", all.len());
    Ok(moments[all.len() - 1] - moments[seen.len() - 1])
}

/// The tables (`name count`) of which there are fewer rows than before. More is no loss: the application goes on with its own work.
fn lacking<'a>(before: &'a [String], after: &[String]) -> Vec<&'a String> {
    let split = |row: &str| row.rsplit_once(' ').and_then(|(name, count)| Some((name.to_owned(), count.parse().ok()?)));
    let after: BTreeMap<String, u64> = after.iter().filter_map(|row| split(row)).collect();
    let less = |row: &&String| split(row).is_none_or(|(name, count)| after.get(&name).is_none_or(|now| *now < count));
    before.iter().filter(less).collect()
}

/// `daily_backups(COUNT, DAYS BETWEEN)`: one day between them, if it does not say.
pub async fn daily(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (count, between): (i64, i64) = (c.argument(0, "3").parse()?, c.argument(1, "1").parse()?);
    let site = lab.site(on).await?;
    let first = base(&site).await?;
    let later = async {
        // What other checks have left, by clocks that were moved as well, does not count.
        let known: Vec<String> = backups(&site).await?.backups.bases.into_iter().map(|b| b.name).collect();
        let mut seen = Vec::new();
        for day in (1..=count).map(|number| number * between) {
            let site = lab.at(on, day * DAY_MS).await?;
            let found = until_in(&format!("the backup of day {day}"), LONG, async || {
                let bases = backups(&site).await?.backups.bases;
                let of_day = |b: &Base| (b.begun_ms - first.begun_ms) / DAY_MS == day;
                let own = bases.into_iter().find(|b| b.scheduled && of_day(b) && !known.contains(&b.name));
                own.ok_or_else(|| Miss::Failed("it is not there".into()))
            })
            .await?;
            seen.push(found.name);
        }
        Ok(format!("nobody asked for {}", seen.join(", ")))
    }
    .await;
    lab.restore(on).await?;
    later
}

/// `backups_kept(DAYS, DAYS BETWEEN)`: one day between two, if it does not say.
pub async fn kept(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (days, between): (i64, i64) = (c.argument(0, "7").parse()?, c.argument(1, "1").parse()?);
    let site = lab.site(on).await?;
    let first = base(&site).await?;
    let point = format!("kept-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    back_up(&site, Some(point.clone())).await?;
    let later = async {
        // The next one, so that there is one to begin from when the first goes.
        for day in [between, days - 1] {
            let site = lab.at(on, day * DAY_MS).await?;
            until_in(&format!("the backup of day {day}"), LONG, async || {
                let all = backups(&site).await?.backups;
                let newest = all.bases.last().map(|b| b.begun_ms).unwrap_or_default();
                let due = first.begun_ms + (day - between + 1) * DAY_MS;
                must!(all.running.is_none() && newest >= due, "the newest is of {newest}");
                must!(all.bases.iter().any(|b| b.name == first.name), "{} is gone on day {day}", first.name);
                Ok(())
            })
            .await?;
            if day != between {
                restore(&site, Target::Point { name: point.clone() }).await?;
                swap(&site, SwapAct::Discard).await?;
            }
        }
        // Until the next one lies before all that may be gone back to, the first is needed.
        let end = days + between;
        let site = lab.at(on, end * DAY_MS).await?;
        until_in("the end of the first backup", LONG, async || {
            let all = backups(&site).await?.backups;
            must!(!all.bases.iter().any(|b| b.name == first.name), "{} is still there", first.name);
            Ok(())
        })
        .await?;
        must!(restore(&site, Target::Point { name: point.clone() }).await.is_err(), "what is let go was restored");
        Ok(format!("{} is restored from on day {}, and gone on day {end}", first.name, days - 1))
    }
    .await;
    lab.restore(on).await?;
    later
}

/// `second_region(OTHER STAMP+ANOTHER, SERVICE, VARIABLE, FILE)`: the first is lost with all that carries its label.
pub async fn second_region(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    must!(backups(&site).await?.backups.copy.is_some(), "{on} has no second copy");
    for other in c.argument(0, "dev").split('+') {
        let other = lab.site(other).await?;
        must!(backups(&other).await?.backups.copy.is_none(), "{} has a second copy as well", other.stamp);
    }
    let work = Work::of(lab, c, 1)?;
    base(&site).await?;
    for number in 1..=5 {
        work.write(&site, number).await?;
    }
    let rows = work.read(&site).await?;
    let census = work.census(&site).await?;
    back_up(&site, Some(format!("lost-{}", work.mark.to_lowercase()))).await?;
    let of = site.of();
    let key: RecoveryKey = site.supervisor.post("/recovery-key", &of).await?;
    let Some(key) = key.recovery_key else { miss!("the recovery key of {on} was shown already") };
    let copy = until_in("the second copy", LONG, async || {
        let Some(copy) = backups(&site).await?.backups.copy else { miss!("{on} has no second copy any more") };
        must!(copy.files_behind == 0 && copy.age_s.is_some(), "{} files behind, {:?}", copy.files_behind, copy.trouble);
        let roles =
            std::fs::read_dir(&copy.folder)?.flatten().any(|e| e.file_name().to_string_lossy().starts_with("roles-"));
        must!(roles && copy.folder.join("keys.box").exists(), "the state of the roles is not in it yet");
        Ok(copy)
    })
    .await?;
    let from = copy.folder.parent().map(std::path::Path::to_owned).unwrap_or_default();
    let first = crate::checks::vault::folder(&site)?;
    must!(!from.starts_with(&first), "the copy in {} lies with what it is a copy of", from.display());
    // Everything that carries the first region's label is gone: processes, data, keys.
    lab.down(on).await?;
    std::fs::remove_dir_all(&first)?;
    let begun = std::time::Instant::now();
    let west = format!("{on}-west");
    let manifest = patched(&site.manifest, &format!("[stamps.{west}]\nregion = \"elsewhere\"\n"))?;
    let back = async {
        let up = api::supervisor::UpRequest {
            folder: lab.folder().to_owned(),
            manifest: manifest.clone(),
            stamp: west.clone(),
            programs: vec![programs()?],
            clock_offset_ms: 0,
            certificate_seconds: 0,
        };
        let mut body = serde_json::to_value(&up)?;
        body["from"] = from.display().to_string().into();
        body["recovery_key"] = key.expose().into();
        self::work(&site, "/restore-from", &body).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let there = Site { stamp: west.clone(), ..(*site).clone() };
        let seen = work.read(&there).await?;
        must!(seen == rows, "of {rows:?} the new stamp has {seen:?}");
        let counted = work.census(&there).await?;
        let lost = lacking(&census, &counted);
        must!(lost.is_empty(), "rows of the tables were {lost:?} and are {counted:?}");
        Ok(format!(
            "{on} with its folder {} removed; {west} up from {} and the recovery key after {seconds:.1} s: {} of {} rows, read by the application's own connection",
            first.display(),
            from.display(),
            seen.len(),
            rows.len()
        ))
    }
    .await;
    // What is left of either is removed: a stamp whose folder is gone does not come up half from its journal.
    for stamp in [west, on.to_owned()] {
        let gone = StampRef { system: of.system.clone(), stamp };
        let _ = self::work(&site, "/destroy", &serde_json::to_value(&gone)?).await;
    }
    lab.restore(on).await?;
    back
}

fn programs() -> Result<std::path::PathBuf, Miss> {
    let own = std::env::current_exe()?;
    own.parent().map(std::path::Path::to_owned).ok_or_else(|| Miss::Failed("this program lies nowhere".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_rows_are_a_loss_and_more_are_not() {
        let rows = |all: &[&str]| all.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>();
        let before = rows(&["public.\"Jobs\" 4", "public.\"Users\" 2"]);
        assert!(lacking(&before, &rows(&["public.\"Jobs\" 5", "public.\"Users\" 2"])).is_empty());
        assert_eq!(lacking(&before, &rows(&["public.\"Jobs\" 4", "public.\"Users\" 1"])), [&before[1]]);
        assert_eq!(lacking(&before, &rows(&["public.\"Users\" 2"])), [&before[0]], "a table that is gone");
    }
}
