//! Several servers of one database: a standby follows, waits are kept, a killed primary is replaced and comes back behind.

mod bed;

use std::time::Duration;

use anyhow::Context as _;
use api::{Secret, member::Part, postgres::Right};
use bed::{
    pair::{Group, name},
    until,
};

const GO_ON: Duration = Duration::from_secs(2);

async fn connect(group: &Group, index: usize, password: &Secret) -> anyhow::Result<tokio_postgres::Client> {
    Ok(group.members[index].connect("web", password, "app").await?)
}

async fn rows(client: &tokio_postgres::Client) -> anyhow::Result<i64> {
    Ok(client.query_one("SELECT count(*) FROM written", &[]).await?.get(0))
}

/// Makes the table and a role that owns it; waits until writes are safe with the second member.
async fn ready(group: &mut Group) -> anyhow::Result<Secret> {
    group.up().await?;
    let password = group.members[0].role("web", "app", Right::Owner).await?;
    connect(group, 0, &password).await?.batch_execute("CREATE TABLE written (n bigint PRIMARY KEY)").await?;
    if group.members[0].config.member.as_ref().is_some_and(|m| m.synchronous) {
        group.becomes(0, "waits for the standby", |p| p.synchronous_with == [name(1)]).await?;
    }
    Ok(password)
}

#[tokio::test]
async fn a_standby_follows_reads_and_takes_over_and_the_killed_primary_comes_back_behind() -> anyhow::Result<()> {
    let mut group = Group::new(2, true, Some(GO_ON))?;
    let password = ready(&mut group).await?;
    let client = connect(&group, 0, &password).await?;
    for n in 0..200_i64 {
        client.execute("INSERT INTO written VALUES ($1)", &[&n]).await?;
    }
    let standby = connect(&group, 1, &password).await?;
    until("the standby has the rows", || async {
        match rows(&standby).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let refused = standby.execute("INSERT INTO written VALUES (-1)", &[]).await.unwrap_err();
    assert_eq!(refused.code(), Some(&tokio_postgres::error::SqlState::READ_ONLY_SQL_TRANSACTION));

    // The primary writes on while it is killed; what it acknowledged is counted.
    let writer = tokio::spawn(async move {
        let mut n = 1000_i64;
        while client.execute("INSERT INTO written VALUES ($1)", &[&n]).await.is_ok() {
            n += 1;
        }
        n - 1000
    });
    group.becomes(0, "has written on", |p| p.wal > 0).await?;
    until("rows are written", || async {
        match rows(&standby).await {
            Ok(n) if n > 300 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    group.kill_all_of(0)?;
    let acknowledged = writer.await?;
    assert_eq!(group.safe_with(0), [name(1)], "the dead primary's record says who has everything");
    group.call(1);
    group.hand_out(0)?;
    let begun = std::time::Instant::now();
    group.tell(1).await?;
    group.becomes(1, "leads", |p| p.part == Part::Primary).await?;
    println!("promoted in {} ms", begun.elapsed().as_millis());
    let client = connect(&group, 1, &password).await?;
    let held: i64 = client.query_one("SELECT count(*) FROM written WHERE n >= 1000", &[]).await?.get(0);
    assert!(held >= acknowledged, "{acknowledged} were acknowledged, {held} are there");
    client.execute("INSERT INTO written VALUES (-2)", &[]).await?;

    group.becomes(1, "has settled", |p| p.settled && p.timeline > 1).await?;
    group.members[0].start()?;
    group.becomes(0, "follows", |p| p.part == Part::Standby && p.streaming).await?;
    group.becomes(1, "waits for the one that came back", |p| p.synchronous_with == [name(0)]).await?;
    let old = connect(&group, 0, &password).await?;
    assert_eq!(rows(&old).await?, rows(&client).await?);
    let log = group.members[0].log();
    assert!(log.contains("rewound") && !log.contains("copied from"), "{log}");
    Ok(())
}

/// A pair whose first member was killed with twelve segments of log since its last checkpoint, and whose second leads now.
async fn parted_far() -> anyhow::Result<(Group, Secret)> {
    let mut group = Group::new(2, true, Some(GO_ON))?;
    let password = ready(&mut group).await?;
    let client = connect(&group, 0, &password).await?;
    let admin = administrator(&group, 0).await?;
    for n in 0..12_i64 {
        client.execute("INSERT INTO written VALUES ($1)", &[&n]).await?;
        admin.execute("SELECT pg_switch_wal()", &[]).await?;
    }
    let standby = connect(&group, 1, &password).await?;
    until("the standby has the rows", || async {
        match rows(&standby).await {
            Ok(12) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    group.kill_all_of(0)?;
    group.call(1);
    group.hand_out(0)?;
    group.tell(1).await?;
    group.becomes(1, "has settled", |p| p.part == Part::Primary && p.settled).await?;
    Ok((group, password))
}

async fn administrator(group: &Group, index: usize) -> anyhow::Result<tokio_postgres::Client> {
    let secret = group.members[index].secrets.get(api::context::secret::POSTGRES_ADMIN).context("a password")?;
    Ok(group.members[index].connect_locally(secret.expose()).await?)
}

#[tokio::test]
async fn the_new_primary_keeps_the_log_that_a_killed_one_replays_when_it_comes_back() -> anyhow::Result<()> {
    let (mut group, password) = parted_far().await?;
    administrator(&group, 1).await?.batch_execute("CHECKPOINT").await?;
    group.members[0].start()?;
    group.becomes(0, "follows", |p| p.part == Part::Standby && p.streaming).await?;
    let log = group.members[0].log();
    assert!(log.contains("rewound") && !log.contains("copied from"), "{log}");
    assert_eq!(rows(&connect(&group, 0, &password).await?).await?, 12);
    Ok(())
}

#[tokio::test]
async fn a_killed_primary_whose_old_log_is_gone_is_copied_and_does_not_wait_for_ever() -> anyhow::Result<()> {
    let (mut group, password) = parted_far().await?;
    let admin = administrator(&group, 1).await?;
    // As when it was away for longer than log is kept for it.
    let slot = "member_1";
    admin.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await?;
    admin.batch_execute("SELECT pg_switch_wal(); CHECKPOINT; CHECKPOINT").await?;
    admin.execute("SELECT pg_create_physical_replication_slot($1, true)", &[&slot]).await?;
    group.members[0].start()?;
    let follows = group.becomes(0, "follows", |p| p.part == Part::Standby && p.streaming).await;
    follows.map_err(|error| error.context(group.members[0].log()))?;
    let log = group.members[0].log();
    assert!(log.contains("any more") && log.contains("copied from"), "{log}");
    assert_eq!(rows(&connect(&group, 0, &password).await?).await?, 12);
    Ok(())
}

#[tokio::test]
async fn a_planned_change_of_the_lead_loses_nothing_and_needs_no_rewind() -> anyhow::Result<()> {
    let mut group = Group::new(2, true, Some(GO_ON))?;
    let password = ready(&mut group).await?;
    connect(&group, 0, &password).await?.execute("INSERT INTO written SELECT generate_series(1, 5000)", &[]).await?;
    group.call(1);
    group.tell(0).await?;
    group.becomes(0, "serves no more", |p| p.part == Part::None).await?;
    until("the server has ended", || async {
        let left = group.members[0].processes();
        if left.is_empty() || group.members[0].pgdata().join("standby.signal").exists() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await?;
    group.tell(1).await?;
    group.becomes(1, "leads", |p| p.part == Part::Primary).await?;
    assert_eq!(rows(&connect(&group, 1, &password).await?).await?, 5000);
    group.becomes(0, "follows", |p| p.part == Part::Standby && p.streaming).await?;
    let log = group.members[0].log();
    assert!(!log.contains("rewound") && !log.contains("copied from"), "{log}");
    Ok(())
}

#[tokio::test]
async fn with_the_standby_dead_writes_go_on_after_the_declared_time_and_the_record_says_so() -> anyhow::Result<()> {
    let mut group = Group::new(2, true, Some(GO_ON))?;
    let password = ready(&mut group).await?;
    let client = connect(&group, 0, &password).await?;
    group.kill_all_of(1)?;
    let begun = std::time::Instant::now();
    client.execute("INSERT INTO written VALUES (1)", &[]).await?;
    let waited = begun.elapsed();
    assert!(waited >= GO_ON - Duration::from_millis(300) && waited < 5 * GO_ON, "{waited:?}");
    assert!(group.safe_with(0).is_empty(), "an acknowledged write is not on the standby");
    group.members[1].start()?;
    group.becomes(0, "waits for the standby again", |p| p.synchronous_with == [name(1)]).await?;
    Ok(())
}

#[tokio::test]
async fn a_member_that_hears_an_old_word_does_not_lead() -> anyhow::Result<()> {
    let mut group = Group::new(2, true, Some(GO_ON))?;
    let password = ready(&mut group).await?;
    group.call(1);
    group.tell(0).await?;
    group.becomes(0, "stepped down", |p| p.term == 2 && p.part != Part::Primary).await?;
    group.tell(1).await?;
    group.becomes(1, "leads", |p| p.part == Part::Primary).await?;
    // A copy of the first word is put back, and the keeper starts anew with it.
    group.members[0].kill_keeper()?;
    group.members[0].kill_server()?;
    group.lead = api::member::Lead { term: 1, primary: name(0) };
    group.hand_out(0)?;
    group.members[0].start()?;
    group.becomes(0, "refuses the old word", |p| p.doing.contains("older than term 2")).await?;
    assert!(group.members[0].processes().is_empty());
    connect(&group, 1, &password).await?.execute("INSERT INTO written VALUES (7)", &[]).await?;
    Ok(())
}
