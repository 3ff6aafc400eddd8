//! One database of a server, from its backups: the server as it was is restored beside, what is asked for is carried over into the
//! server there is under a name of its own, and the throwaway server is removed. A person then swaps it in or removes it.

use std::{
    os::unix::fs::lchown,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    postgres::Exchange,
    supervisor::{Event, Restored, StepState, SwapAct, SwapRequest},
};
use model::{Resource, ResourceId};

use super::{Beside, CHECKED_WITHIN, Steps, begin, discard_now, find, keeper, refused};
use crate::{
    Error,
    home::make_for,
    journal::StampRow,
    layout::Layout,
    reconcile::blocking,
    stamp::{Ground, What, Work},
};

/// What the throwaway server is called after the one it is made from.
pub(super) const ASIDE: &str = "-one-database";
/// How often the growing file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The declared database, or an error that names those there are.
pub(super) fn declared(ground: &Ground, row: &StampRow, id: &ResourceId, name: &str) -> Result<(), Error> {
    let system = crate::reconcile::system_of(ground, row)?;
    let known = match system.resources.get(id) {
        Some(Resource::Postgres(postgres)) => postgres.databases.clone(),
        _ => Vec::new(),
    };
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    Err(Error::Asked {
        what: format!("{id} has no database `{name}`"),
        hint: Some(format!("it has: {}", known.join(", "))),
    })
}

/// Carries the database over from the restored server, and removes that one.
pub(super) async fn carried(
    ground: &Arc<Ground>,
    row: &StampRow,
    work: &Work,
    beside: &Beside,
    database: &str,
    mut restored: Restored,
) -> Result<Restored, Error> {
    let begun = Instant::now();
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let carried = carry(ground, &layout, work, beside, database).await;
    discard_now(ground, row, beside).await?;
    let name = carried?;
    restored.name = name;
    restored.state = "database-beside".into();
    restored.address = String::new();
    restored.milliseconds += begun.elapsed().as_millis() as u64;
    Ok(restored)
}

async fn carry(
    ground: &Arc<Ground>,
    layout: &Layout,
    work: &Work,
    beside: &Beside,
    database: &str,
) -> Result<String, Error> {
    let steps = Steps(work);
    let from = keeper(ground, layout, &beside.name).timeout(CHECKED_WITHIN);
    let to = keeper(ground, layout, &beside.origin).timeout(CHECKED_WITHIN);
    let leads = crate::lead::primary(ground, layout, &beside.origin)?;
    let aside = beside.name.to_string();
    // Each has a folder of its own for it: neither reads the other's data.
    let (theirs, ours) = (exchange(layout, &aside).await?, exchange(layout, &leads).await?);
    let file = theirs.join("database.dump");
    let dumping = format!("dump {database}");
    steps
        .run(&dumping, async {
            let dumped = api::postgres::dump_database(&from, database, &file);
            tokio::select! {
                done = dumped => done.map_err(refused(&beside.name, "write the database into a file"))?,
                never = grows(work, &dumping, &file) => never,
                () = work.cancel.asked() => return Err(Error::Interrupted(format!("the restore of {database}"))),
            }
            Ok(((), mebibytes(&file)))
        })
        .await?;
    let user = layout.user(&leads);
    let moved = ours.join("database.dump");
    hand_over(&file, &moved, user).await?;
    let loading = format!("load {database}");
    let loaded = steps.run(&loading, async {
        let loaded = api::postgres::load_database(&to, database, &moved);
        tokio::select! {
            done = loaded => {
                let done = done.map_err(refused(&beside.origin, "make the restored database"))?;
                Ok((done.database.clone(), done.database))
            }
            () = work.cancel.asked() => Err(Error::Interrupted(format!("the restore of {database}"))),
        }
    });
    let loaded = loaded.await;
    for folder in [theirs, ours] {
        super::remove(&folder)?;
    }
    loaded
}

/// A folder in which a workload finds or leaves a file; nobody else's.
async fn exchange(layout: &Layout, workload: &str) -> Result<PathBuf, Error> {
    let (folder, user) = (layout.place(workload).join("exchange"), layout.user(workload));
    blocking(move || {
        super::remove(&folder)?;
        make_for(&folder, 0o700, user).map_err(Error::file("make", &folder))?;
        Ok(folder)
    })
    .await
}

async fn hand_over(from: &Path, to: &Path, user: Option<u32>) -> Result<(), Error> {
    let (from, to) = (from.to_owned(), to.to_owned());
    blocking(move || {
        // Its owner may be whoever wrote it; a link that was put there is not followed.
        let found = std::fs::symlink_metadata(&from).map_err(Error::file("look at", &from))?;
        if !found.is_file() {
            return Err(Error::Fault(format!("{} is no file", from.display())));
        }
        std::fs::rename(&from, &to).map_err(Error::file("hand over", &from))?;
        match user {
            Some(user) => lchown(&to, Some(user), Some(user)).map_err(Error::file("hand over", &to)),
            None => Ok(()),
        }
    })
    .await
}

fn mebibytes(file: &Path) -> String {
    let bytes = std::fs::metadata(file).map_or(0, |m| m.len());
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Tells how large the file is, for as long as it is polled.
async fn grows<T>(work: &Work, step: &str, file: &Path) -> T {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        Steps(work).tell(step, StepState::Waiting, begun, mebibytes(file));
    }
}

/// Begins putting the restored database in its origin's place, or removing what stands aside.
pub(super) async fn swap(
    ground: &Arc<Ground>,
    row: StampRow,
    request: SwapRequest,
    database: String,
) -> Result<Work, Error> {
    let (_, layout, id) = find(ground, &row, request.resource.as_deref())?;
    declared(ground, &row, &id, &database)?;
    let work = begin(ground, &row, What::Swap).await?;
    let (ground, told) = (ground.clone(), work.clone());
    tokio::spawn(async move {
        let state = ground.stamp(&row.system, &row.stamp);
        let _busy = state.busy.lock().await;
        let begun = Instant::now();
        let (verb, word) = match request.act {
            SwapAct::Swap => ("swap", "database-swapped"),
            SwapAct::Discard => ("discard", "database-discarded"),
            SwapAct::Forget => ("forget what was replaced of", "database-forgotten"),
        };
        let step = format!("{verb} {database}");
        Steps(&told).plan(&[&step]);
        let done = Steps(&told).run(&step, act(&ground, &row, &layout, &id, &request, &database, &step)).await;
        told.feed.tell(match done {
            Ok(exchange) => Event::Restored(Box::new(Restored {
                origin: id.to_string(),
                name: exchange.database,
                state: word.into(),
                milliseconds: begun.elapsed().as_millis() as u64,
                notes: exchange.kept,
                ..Restored::default()
            })),
            Err(error) => Event::Failed(error.failure()),
        });
    });
    Ok(work)
}

async fn act(
    ground: &Ground,
    row: &StampRow,
    layout: &Layout,
    id: &ResourceId,
    request: &SwapRequest,
    database: &str,
    step: &str,
) -> Result<(Exchange, String), Error> {
    ground.journal.step(&row.system, &row.stamp, step, "begun", ground.clock.now_ms(), "")?;
    let client = keeper(ground, layout, id);
    let done = match request.act {
        SwapAct::Swap => {
            let kept = format!("{database}-old-{}", ground.clock.now_s());
            api::postgres::swap_database(&client, database, &kept).await
        }
        SwapAct::Discard => api::postgres::drop_aside(&client, database, false).await,
        SwapAct::Forget => api::postgres::drop_aside(&client, database, true).await,
    };
    let done = done.map_err(|source| match source.status() {
        Some(404) => Error::Asked {
            what: format!("there is no restored database beside `{database}` of {id}"),
            hint: Some(format!(
                "make one: `stamp restore {} {id} --stamp {} --database {database} --to TIME`",
                row.system, row.stamp
            )),
        },
        _ => refused(id, "change which database is which")(source),
    })?;
    ground.journal.step(&row.system, &row.stamp, step, "done", ground.clock.now_ms(), &done.kept.join(", "))?;
    let note = done.kept.join(", ");
    Ok((done, note))
}
