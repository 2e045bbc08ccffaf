//! A suite: named steps on one bed, in order. A failed step does not hide the ones after it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Runs steps and remembers which failed.
#[derive(Default)]
pub struct Suite {
    failed: Vec<String>,
    ran: usize,
    only: Option<String>,
}

impl Suite {
    /// `KEELSON_STEP` limits the run to steps whose name contains it.
    pub fn new() -> Self {
        Self {
            only: std::env::var("KEELSON_STEP").ok(),
            ..Self::default()
        }
    }

    /// Runs one step.
    pub fn step(&mut self, name: &str, step: impl FnOnce()) {
        if self
            .only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            return;
        }
        let begin = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(step));
        let verdict = if done.is_ok() { "ok" } else { "FAILED" };
        eprintln!(
            "step {name}: {verdict} ({:.1} s)",
            begin.elapsed().as_secs_f32()
        );
        self.ran += 1;
        if let Err(panic) = done {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            self.failed
                .push(format!("{name}: {}", text.unwrap_or_default()));
        }
    }

    /// # Panics
    /// When a step failed, or none ran.
    pub fn done(self) {
        assert!(self.ran > 0, "no step has this name: {:?}", self.only);
        let failed = self.failed.len();
        assert!(
            failed == 0,
            "{failed} of {} steps failed:\n- {}",
            self.ran,
            self.failed.join("\n- ")
        );
    }
}
