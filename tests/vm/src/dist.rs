//! What users install keelson from, made of the programs under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use keelson_tests::bins::program;
use keelson_tests::images;
use tempfile::TempDir;

/// Inside of machines.
pub const INSIDE: &str = "/opt/keelson/dist";

/// A folder with a Debian package `keelson.deb`, and a folder `release` that `install.sh --airgap` takes, with the
/// tests' images.
pub struct Dist(TempDir);

impl Dist {
    /// Makes both, by `scripts/deb`.
    ///
    /// # Errors
    /// When a program is missing or a tool fails.
    pub fn make() -> anyhow::Result<Self> {
        let dist = tempfile::tempdir()?;
        let keelson = program("keelson");
        let programs = keelson.parent().context("a program is in a folder")?;
        let made = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/deb"))
            .arg(dist.path())
            .env("KEELSON_BIN", programs)
            .env("KEELSON_GZIP", "1")
            .status();
        ensure!(made?.success(), "scripts/deb failed");
        let [package, archive] = ["deb", "tar.gz"].map(|end| find(dist.path(), end));
        fs::rename(package?, dist.path().join("keelson.deb"))?;
        let (archive, release) = (archive?, dist.path().join("release"));
        fs::create_dir_all(release.join("images"))?;
        let unpacked = Command::new("tar")
            .args(["-xz", "--strip-components=1", "-f"])
            .arg(&archive)
            .arg("-C")
            .arg(&release)
            .status();
        ensure!(unpacked?.success(), "unpack {}", archive.display());
        fs::remove_file(archive)?;
        images::copy_into(&release.join("images"));
        Ok(Self(dist))
    }

    /// Adds what there is to upgrade to: a package `newer.deb`, whose program differs in its last bytes.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn add_newer(&self) -> anyhow::Result<()> {
        let script = "set -e
dpkg-deb -R keelson.deb newer
sed -i 's/^Version: .*/&+newer/' newer/DEBIAN/control
echo newer >>newer/usr/lib/keelson/keelson
dpkg-deb -Znone -b newer newer.deb >/dev/null
rm -r newer";
        let mut bash = Command::new("bash");
        let made = bash.args(["-c", script]).current_dir(&self.0).status();
        ensure!(made?.success(), "no newer package");
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

fn find(folder: &Path, end: &str) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(folder)?.flatten().map(|e| e.path());
    let mut files = entries.filter(|p| p.to_string_lossy().ends_with(end));
    files
        .next()
        .with_context(|| format!("scripts/deb made no {end}"))
}
