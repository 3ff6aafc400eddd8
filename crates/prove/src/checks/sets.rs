//! What an application backs up by itself: a job that makes sets on a share, by night, and a program that restores one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use api::job::{JobRun, JobStatus};

use super::story;
use crate::{Lab, Miss, Seen, Site, claim::Call, miss, must, sabotage, site::until_in};

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
const LONG: Duration = Duration::from_secs(60);
/// The supervisor looks at its jobs several times in this.
const FIRST_LOOK: Duration = Duration::from_secs(5);

fn share(site: &Site, name: &str) -> Result<PathBuf, Miss> {
    let place = site.places.get(name);
    Ok(place.ok_or_else(|| Miss::Failed(format!("there is no {name}")))?.join("data"))
}

/// Sets of a share: its folders with a manifest, the oldest first.
fn sets(share: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(share).into_iter().flatten().flatten().map(|e| e.path());
    let mut all: Vec<PathBuf> = entries.filter(|p| p.join("manifest.json").is_file()).collect();
    all.sort();
    all
}

/// A copy that everybody may read.
fn copy(from: &Path, to: &Path) -> Result<(), Miss> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(to)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755))?;
    for entry in std::fs::read_dir(from)? {
        let (entry, to) = (entry?, to);
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

/// Relative paths and digests of the files under a folder.
fn contents(folder: &Path) -> Result<BTreeMap<PathBuf, String>, Miss> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at)? {
            let path = entry?.path();
            let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            if path.is_dir() {
                folders.push(path);
            } else if !hidden {
                let name = path.strip_prefix(folder).map(Path::to_owned).unwrap_or_default();
                all.insert(name, crate::inside::sha256(&std::fs::read(&path)?));
            }
        }
    }
    Ok(all)
}

/// `set_restores(JOB, FILES, SETS, PROGRAM, BEFORE, AFTER)`: BEFORE is told and the JOB makes a set on the share SETS; database and
/// share FILES are deleted, and the set is still there; the PROGRAM restores it into a stamp that was made anew, every file is what it
/// was, and AFTER is told.
pub async fn restores(lab: &Lab, on: &str, c: &Call) -> Seen {
    let [job, files, kept, program, before, after] = &c.arguments[..] else { miss!("it takes six arguments") };
    let site = lab.restore(on).await?;
    let mut names = BTreeMap::new();
    story::go_on(lab, on, before, &mut names).await?;
    let run = story::run_job(&site, job).await?;
    let (data, share_of_sets) = (share(&site, files)?, share(&site, kept)?);
    must!(data != share_of_sets, "sets lie with what they are of");
    let set = sets(&share_of_sets).pop().ok_or_else(|| Miss::Failed(format!("run {} made no set", run.number)))?;
    let (live, whole) = (contents(&data)?, contents(&share_of_sets)?);
    let copied = contents(&share_of_sets.join("media"))?;
    let missing: Vec<_> = live.iter().filter(|(name, digest)| copied.get(*name) != Some(*digest)).collect();
    must!(missing.is_empty() && !live.is_empty(), "of {} files {missing:?} are not in the backups", live.len());
    let counts = count(&site).await?;
    // All of the first is gone: its database, its files.
    lab.down(on).await?;
    let postgres = site.first("postgres")?;
    let database = site.places.get(&postgres).map(|place| place.join("data"));
    for gone in [database.as_ref(), Some(&data)].into_iter().flatten() {
        std::fs::remove_dir_all(gone)?;
    }
    must!(contents(&share_of_sets)? == whole, "the backups did not survive");
    let name = set.file_name().unwrap_or_default().to_owned();
    let copies = site.scratch.join(format!("sets-{}", uuid::Uuid::new_v4().simple()));
    copy(&share_of_sets, &copies)?;
    lab.destroy(on).await?;
    let fresh = lab.restore(on).await?;
    let told = restore(&fresh, program, &copies.join(&name)).await;
    let _ = std::fs::remove_dir_all(&copies);
    let told = told?;
    let counted = count(&fresh).await?;
    // Sessions are worth nothing on another day.
    let differ: Vec<_> = counts.iter().filter(|(table, n)| counted.get(*table) != Some(*n)).collect();
    must!(differ.is_empty(), "rows before and after differ: {differ:?}; {told}");
    must!(contents(&share(&fresh, files)?)? == live, "files before and after differ");
    let seen = story::go_on(lab, on, after, &mut names).await?;
    Ok(format!(
        "set {}: {} files with their digests; database and files deleted, the set stayed; restored by `{program} restore` into an empty \
         stamp: {} tables with equal rows; {seen}",
        name.display(),
        live.len(),
        counts.len()
    ))
}

/// Rows and a digest of all of them, by table; left out are tables of one day's use, and what a site's integration engine sends anew.
async fn count(site: &Site) -> Result<BTreeMap<String, String>, Miss> {
    let owner = sabotage::owner(site).await?;
    let tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
                  AND relname NOT IN ('Sessions', 'UsedTickets', 'Jobs', 'SchemaMigrations', 'Formulary', 'FormularyMessages')";
    let mut all = BTreeMap::new();
    for row in crate::sql::rows(&owner, tables).await? {
        let sql = format!(
            "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM \"{}\" t",
            row[0]
        );
        let found = crate::sql::rows(&owner, &sql).await?;
        all.insert(row[0].clone(), found[0][0].clone());
    }
    Ok(all)
}

/// The application's own program, in the place of its service, as the owner of the schema.
async fn restore(site: &Site, program: &str, set: &Path) -> Result<String, Miss> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name(program);
    // Where its service may read it, whatever the folder of the build allows.
    let at = site.scratch.join(format!("program-{}", uuid::Uuid::new_v4().simple()));
    std::fs::copy(&program, &at)?;
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755))?;
    let connection = sabotage::owner_string(site).await?;
    let command = vec![
        "/usr/bin/env".to_owned(),
        // A role of this look alone, on a stamp that is thrown away.
        format!("MIGRATIONS_CONNECTION={connection}"),
        at.display().to_string(),
        "restore".to_owned(),
        set.display().to_string(),
    ];
    let said = site.command("cms", command).await;
    let _ = std::fs::remove_file(&at);
    let said = said?;
    must!(said.contains("restored"), "the program says: {}", said.trim());
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

/// `scheduled(JOB, HOUR, NIGHTS, SHARE OF SETS, STORY)`: the stamp's clock is moved to each of the next nights; every time the job runs by
/// itself, once, and leaves a set more (`-`: it leaves none). STORY is told at the end.
pub async fn scheduled(lab: &Lab, on: &str, c: &Call) -> Seen {
    let [job, hour, nights, kept, after] = &c.arguments[..] else { miss!("it takes five arguments") };
    let (hour, nights): (i64, i64) = (hour.parse()?, nights.parse()?);
    let site = lab.site(on).await?;
    let folder = match kept.as_str() {
        "-" => None,
        name => Some(share(&site, name)?),
    };
    let api::supervisor::StampRef { system, stamp } = site.of();
    let path = format!("/jobs?system={system}&stamp={stamp}&name={job}");
    // Other checks have moved the clock too: a night in which the job ran already is no night to come.
    let jobs: Vec<JobStatus> = site.supervisor.get(&path).await?;
    let ran = jobs.iter().flat_map(|j| &j.runs).map(|run| run.started_ms).max().unwrap_or_default();
    let now = ran.max(jiff::Timestamp::now().as_millisecond());
    if ran == 0 {
        // A schedule counts from the supervisor's first look at it, which nothing tells of.
        tokio::time::sleep(FIRST_LOOK).await;
    }
    let looked = async {
        let (mut told, mut known) = (Vec::new(), folder.as_deref().map_or(0, |f| sets(f).len()));
        for night in 1..=nights {
            let due = (now / DAY_MS + night) * DAY_MS + hour * HOUR_MS;
            let site = lab.at(on, due + 3_000 - jiff::Timestamp::now().as_millisecond()).await?;
            let run = until_in("a run that nobody asked for", LONG, async || {
                let jobs: Vec<JobStatus> = site.supervisor.get(&path).await?;
                let runs: Vec<JobRun> = jobs.into_iter().flat_map(|j| j.runs).collect();
                // Nights that other checks have passed over are caught up on by the same run.
                let in_night = |r: &&JobRun| r.why != "asked" && (due..due + DAY_MS).contains(&r.started_ms);
                let of_night: Vec<&JobRun> = runs.iter().filter(in_night).collect();
                match of_night[..] {
                    [run] if run.is_over() => Ok(run.clone()),
                    [_, _, ..] => miss!("it ran {} times", of_night.len()),
                    _ => miss!("{:?}", runs.first()),
                }
            })
            .await?;
            must!(run.outcome == "done", "in night {night} {job} is {}: {}", run.outcome, run.note);
            if let Some(folder) = &folder {
                let found = sets(folder).len();
                must!(found == known + 1, "after night {night} there are {found} sets, {known} before it");
                known = found;
            }
            let at = jiff::Timestamp::from_millisecond(run.started_ms)?;
            told.push(format!("{at} {} ({})", run.outcome, run.why));
        }
        Ok::<Vec<String>, Miss>(told)
    }
    .await;
    lab.restore(on).await?;
    let told = looked?;
    let seen = story::go_on(lab, on, after, &mut BTreeMap::new()).await?;
    Ok(format!("{job} by itself: {}; {seen}", told.join(", ")))
}
