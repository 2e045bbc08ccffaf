//! Waiting for what takes a while.

use std::time::{Duration, Instant};

/// How often is looked.
const EVERY: Duration = Duration::from_millis(50);

/// Tries until `look` gives a value; `within` is only when to give up.
///
/// # Panics
/// When the time is over, with the last error.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> anyhow::Result<T>,
) -> T {
    let end = Instant::now() + within;
    loop {
        match look() {
            Ok(value) => return value,
            Err(error) if Instant::now() >= end => {
                panic!("{what}: not within {within:?}: {error:#}")
            }
            Err(_) => std::thread::sleep(EVERY),
        }
    }
}

/// The same for what is awaited.
///
/// # Panics
/// When the time is over, with the last error.
pub async fn eventually_async<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> T {
    let end = Instant::now() + within;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(error) if Instant::now() >= end => {
                panic!("{what}: not within {within:?}: {error:#}")
            }
            Err(_) => tokio::time::sleep(EVERY).await,
        }
    }
}

/// Seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Whether this is `scripts/test --long`, which has the time for whole soaks.
pub fn is_long() -> bool {
    std::env::var("NEXTEST_PROFILE").is_ok_and(|profile| profile == "long")
}
