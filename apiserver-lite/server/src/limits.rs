//! How many requests may be in flight: past that the answer is 429, so that a flood of clients cannot
//! starve the rest. Watches and streams do not count, and the privileged group always gets an answer.

use std::sync::Arc;

use keelson_api::Status;
use keelson_auth::User;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::request_info::RequestInfo;
use crate::sub;

/// Requests that only read (upstream's `--max-requests-inflight`).
const READS: usize = 400;
/// Requests that write (upstream's `--max-mutating-requests-inflight`).
const WRITES: usize = 200;
/// When a refused client should try again, in seconds.
const RETRY_AFTER: u32 = 1;

/// Places for requests.
pub(crate) struct Limits {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(READS, WRITES)
    }
}

impl Limits {
    fn new(reads: usize, writes: usize) -> Self {
        Limits {
            reads: Arc::new(Semaphore::new(reads)),
            writes: Arc::new(Semaphore::new(writes)),
        }
    }

    /// Takes a place until the permit is dropped; `None` for requests that need none.
    pub(crate) fn enter(
        &self,
        user: &User,
        info: &RequestInfo,
    ) -> Result<Option<OwnedSemaphorePermit>, Status> {
        if info.verb == "watch" || sub::streams(&info.subresource) {
            return Ok(None);
        }
        let places = match info.verb.as_str() {
            "get" | "list" | "head" => &self.reads,
            _ => &self.writes,
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => Ok(Some(place)),
            Err(_) if user.in_group("system:masters") => Ok(None),
            Err(_) => Err(refusal()),
        }
    }
}

fn refusal() -> Status {
    let mut status = Status::new(
        429,
        "TooManyRequests",
        "Too many requests, please try again later.",
    );
    status.retry_after = Some(RETRY_AFTER);
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(verb: &str, subresource: &str) -> RequestInfo {
        RequestInfo {
            verb: verb.into(),
            subresource: subresource.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let limits = Limits::new(1, 1);
        let user = User::component("u", &[]);
        let read = limits.enter(&user, &info("list", "")).expect("a place");
        let write = limits.enter(&user, &info("patch", "")).expect("a place");
        for verb in ["get", "create", "deletecollection"] {
            let status = limits.enter(&user, &info(verb, "")).expect_err(verb);
            assert_eq!((status.code, status.retry_after), (429, Some(1)), "{verb}");
        }
        for (verb, sub) in [("watch", ""), ("get", "log"), ("create", "exec")] {
            let place = limits.enter(&user, &info(verb, sub)).expect(verb);
            assert!(place.is_none(), "{verb}");
        }
        let admin = User::component("a", &["system:masters"]);
        assert!(limits.enter(&admin, &info("get", "")).is_ok());
        drop((read, write));
        assert!(limits.enter(&user, &info("get", "")).is_ok());
        assert!(limits.enter(&user, &info("create", "")).is_ok());
    }
}
