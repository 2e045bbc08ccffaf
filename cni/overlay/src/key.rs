//! WireGuard's keys. The private one is never printed: it has no `Debug` that shows it.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Who a node is in WireGuard; in text as `wg` has it, in base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        decode(text)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no WireGuard key: 32 bytes in base64 are needed"))
    }
}

fn decode(text: &str) -> Option<[u8; 32]> {
    BASE64_STANDARD.decode(text.trim()).ok()?.try_into().ok()
}

/// What proves who a node is.
#[derive(Clone)]
pub(crate) struct PrivateKey([u8; 32]);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(...)")
    }
}

impl PrivateKey {
    /// For the kernel only.
    pub(crate) fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The one that is kept in a file, made now if there is none. The kernel puts its bits right (RFC 7748, section 5)
    /// and computes the public key.
    pub(crate) fn load_or_make(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => {
                let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it holds no key");
                decode(&text).map(Self).ok_or_else(wrong)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let key = Self(rand::random());
                key.write(path)?;
                Ok(key)
            }
            Err(e) => Err(e),
        }
    }

    /// Whole or not at all, readable for root only from the first byte on.
    fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let new = path.with_extension("new");
        // One that an interrupted run left is not written on: its mode is not known.
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        writeln!(file, "{}", BASE64_STANDARD.encode(self.0))?;
        file.sync_all()?;
        fs::rename(&new, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_shown_to_nobody() {
        let dir = std::env::temp_dir().join(format!("overlay-key-{}", std::process::id()));
        let path = dir.join("below/wireguard.key");
        let key = PrivateKey::load_or_make(&path).expect("made");
        let again = PrivateKey::load_or_make(&path).expect("read");
        assert_eq!(key.bytes(), again.bytes());
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(format!("{key:?}"), "PrivateKey(...)");
        fs::write(&path, "short").expect("write");
        assert!(PrivateKey::load_or_make(&path).is_err(), "not overwritten");
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn public_keys_are_text() {
        let key = PublicKey([7; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        for wrong in ["", "Bw==", "not base64!", &"A".repeat(64)] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
    }
}
