//! Several errors as one: what goes on after errors tells all of them.

use keelson_cni_plan::protocol::Error;

/// The first error, with what the others say; none if all is well.
pub(crate) fn all_of(done: Vec<Result<(), Error>>) -> Result<(), Error> {
    let mut errors = done.into_iter().filter_map(Result::err);
    let Some(mut first) = errors.next() else {
        return Ok(());
    };
    for other in errors {
        first.details = format!("{}; {other}", first.details);
    }
    Err(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_counts_and_all_are_told() {
        let error = |code, msg: &str| Err(Error::new(code, msg, "why"));
        assert_eq!(all_of(vec![Ok(()), Ok(())]), Ok(()));
        let both = all_of(vec![Ok(()), error(5, "a"), error(6, "b")]).expect_err("two");
        assert_eq!((both.code, both.details.as_str()), (5, "why; b: why"));
    }
}
