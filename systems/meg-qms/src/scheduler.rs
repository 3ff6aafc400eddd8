//! `meg-qms scheduler`: puts periodic jobs into the queue, each once a period, however many schedulers there are and however
//! often one is restarted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sdk::{Settings, SettingsError, serve::asked};
use uuid::Uuid;

use crate::{
    queue::{self, Job},
    redis::{Redis, RedisError},
};

/// Name, period and place in the period, in seconds.
pub const PERIODIC: [(&str, u64, u64); 3] = [
    ("sweep", 60, 0),
    ("warm", 300, 5),
    // At six in the morning.
    ("reminders", 86_400, 21_600),
];

/// What is due at this second: name and the number of its period.
pub fn due(now: u64) -> Vec<(&'static str, u64)> {
    PERIODIC.iter().filter_map(|(name, period, at)| Some((*name, now.checked_sub(*at)? / period))).collect()
}

/// Puts what is due into the queue, unless its period's job is there already; how many.
///
/// # Errors
/// Redis is away.
pub async fn tick(redis: &Redis, now: u64) -> Result<usize, RedisError> {
    let mut put = 0;
    for (name, number) in due(now) {
        let period = PERIODIC.iter().find(|(n, ..)| *n == name).map_or(60, |(_, p, _)| *p);
        let seconds = u32::try_from(period * 2).unwrap_or(u32::MAX);
        let key = format!("meg:tick:{name}:{number}");
        if !redis.claim(&key, seconds).await? {
            continue;
        }
        // The same id in each scheduler: if redis forgets the key, the job's row still says that it was done.
        let digest = crate::media::sha256(key.as_bytes());
        let id = u128::from_str_radix(&digest[..32], 16).map_or(Uuid::nil(), Uuid::from_u128);
        queue::put(redis, &Job { id, name: name.to_owned(), subject: number.to_string() }).await?;
        put += 1;
    }
    Ok(put)
}

/// Ticks each second until the process is asked to end.
///
/// # Errors
/// A setting is unusable.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    let missing = SettingsError::Missing { name: "REDIS_URL", holds: "the queue's address, rediss://..." };
    let redis = Redis::from_settings(settings)?.ok_or(missing)?;
    let ticking = async {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            if let Err(error) = tick(&redis, now).await {
                tracing::warn!(%error, "periodic jobs wait for redis");
            }
        }
    };
    tokio::select! {
        () = ticking => Ok(()),
        () = asked() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::due;

    #[test]
    fn a_period_has_one_number_from_its_begin_to_its_end() {
        let of = |now, name| due(now).into_iter().find(|(n, _)| *n == name).map(|(_, number)| number);
        assert_eq!((of(119, "sweep"), of(120, "sweep"), of(179, "sweep")), (Some(1), Some(2), Some(2)));
        assert_eq!((of(86_400 + 21_599, "reminders"), of(86_400 + 21_600, "reminders")), (Some(0), Some(1)));
    }
}
