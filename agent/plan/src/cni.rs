//! When plugins are told which attachments live, so that they free what nobody has (CNI GC).

use jiff::{SignedDuration, Timestamp};

/// Between two GCs at least: a DEL that keeps failing asks again with each try, and nothing is added meanwhile.
pub const BETWEEN: SignedDuration = SignedDuration::from_secs(60);

/// When the GC that was asked for at `asked` is due, after one at `last`.
pub fn gc_at(asked: Timestamp, last: Option<Timestamp>) -> Timestamp {
    let rested = last.and_then(|last| last.checked_add(BETWEEN).ok());
    rested.map_or(asked, |rested| rested.max(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_but_not_soon_after_another() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        for (asked, last, due) in [
            (100, None, 100),
            (100, Some(90), 150),
            (150, Some(90), 150),
            (400, Some(90), 400),
        ] {
            assert_eq!(gc_at(at(asked), last.map(at)), at(due), "{asked} {last:?}");
        }
    }
}
