//! Who computes, and when: no more at once than there are cores.
//!
//! With more, all of them would be late together: callers give up after a minute, ask again, and what they gave up is computed
//! all the same. In turn, the first are done in time, and whoever gives up before their turn costs nothing.

use std::sync::{Arc, LazyLock};

use tokio::sync::Semaphore;

static CORES: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from))));

/// Does `work` on a thread of its own when a core is free, first come, first served. None when the thread was lost.
pub async fn in_turn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    in_turn_of(&CORES, work).await
}

async fn in_turn_of<T: Send + 'static>(cores: &Arc<Semaphore>, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let core = cores.clone().acquire_owned().await.ok()?;
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        // Held to the end of the work, even when nobody waits for it any more.
        drop(core);
        done
    });
    done.await.ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use std::{
        sync::{
            atomic::{AtomicU32, Ordering::SeqCst},
            mpsc::channel,
        },
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn who_gives_up_before_their_turn_costs_nothing_and_who_has_begun_keeps_the_core() {
        let cores = Arc::new(Semaphore::new(1));
        let (done, (go, wait)) = (Arc::new(AtomicU32::new(0)), channel::<()>());
        let count = |done: &Arc<AtomicU32>| {
            let done = done.clone();
            move || done.fetch_add(1, SeqCst)
        };
        let begun = in_turn_of(&cores, move || wait.recv());
        assert!(tokio::time::timeout(Duration::from_millis(5), begun).await.is_err(), "it waits to be told to go on");
        for _ in 0..20 {
            let waits = in_turn_of(&cores, count(&done));
            assert!(tokio::time::timeout(Duration::from_millis(1), waits).await.is_err(), "the core is taken");
        }
        go.send(()).unwrap();
        assert_eq!(in_turn_of(&cores, count(&done)).await, Some(0), "nobody was before");
        assert_eq!(done.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_core_back() {
        let cores = Arc::new(Semaphore::new(1));
        assert_eq!(in_turn_of(&cores, || panic!("as a test")).await, None::<()>);
        assert_eq!(in_turn_of(&cores, || 7).await, Some(7));
    }
}
