//! Waiting for a time that is far away.

use std::time::{Duration, SystemTime};

/// The longest that is slept at once: clocks are set, machines sleep, and neither counts for a timer.
const PIECE: Duration = Duration::from_secs(600);

/// Waits until the clock says so: for a certificate's renewal.
pub async fn until(at: impl Into<SystemTime>) {
    let at = at.into();
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(PIECE)).await;
    }
}
