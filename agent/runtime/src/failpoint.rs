//! Points where tests end the agent as `kill -9` would. Nothing of it is in a release build.
//!
//! `<run_dir>/failpoint` names the point; the process that passes it removes the file and is gone.

use std::path::Path;

#[cfg(debug_assertions)]
mod armed {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    use nix::sys::signal::{Signal, kill};

    pub(super) static FILE: OnceLock<PathBuf> = OnceLock::new();

    pub(super) fn die(name: &str) {
        let Some(file) = FILE.get() else { return };
        let wanted = std::fs::read_to_string(file);
        if wanted.is_ok_and(|w| w.trim() == name) && std::fs::remove_file(file).is_ok() {
            let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
            // Until the signal is there.
            loop {
                std::thread::park();
            }
        }
    }
}

/// Says where points are named, once.
pub(crate) fn arm(run_dir: &Path) {
    #[cfg(debug_assertions)]
    armed::FILE.get_or_init(|| run_dir.join("failpoint"));
    #[cfg(not(debug_assertions))]
    let _ = run_dir;
}

/// A point by its name: ends here if it is wanted.
#[inline]
pub fn pass(name: &str) {
    #[cfg(debug_assertions)]
    armed::die(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}
