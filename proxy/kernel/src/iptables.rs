//! iptables, by `iptables-save` and one `iptables-restore --noflush` a change, over standard input; the programs
//! are those of the variant that is in use.

use std::process::Stdio;

use keelson_proxy_plan::iptables::variant::{Found, Holds, Variant, choose};
use keelson_proxy_plan::iptables::{Ruleset, leftovers};
use keelson_proxy_plan::model::Family;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Error;

/// Seconds to wait for the lock that the legacy variant's programs share.
const LOCK_SECONDS: &str = "5";

/// The programs of a variant, or, where none has a name of its own, those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Programs {
    variant: Option<Variant>,
}

/// Which programs are used, and what somebody should know who runs this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// The programs of the variant that is in use.
    pub programs: Programs,
    /// Both variants hold rules.
    pub warning: Option<String>,
}

pub(crate) fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.into_iter().any(|dir| dir.join(program).exists())
}

impl Programs {
    /// Those of a variant.
    pub fn of(variant: Variant) -> Self {
        let variant = Some(variant);
        Self { variant }
    }

    /// Which variant's they are, if that is known.
    pub fn variant(&self) -> Option<Variant> {
        self.variant
    }

    /// All that are installed (none: no rule of ours can be there): by the variants' names, or, where there are none, by their common one.
    pub fn installed() -> Vec<Self> {
        let there = |p: &Self| is_there(p.names(Family::V4).0);
        let named: Vec<Self> = Variant::ALL
            .map(Self::of)
            .into_iter()
            .filter(there)
            .collect();
        if !named.is_empty() {
            return named;
        }
        Some(Self { variant: None })
            .into_iter()
            .filter(there)
            .collect()
    }

    /// Those of the variant that is in use in this network namespace.
    pub async fn detect() -> Detected {
        let mut found = Found {
            default: version().await,
            ..Found::default()
        };
        for programs in Self::installed() {
            if let Some(variant) = programs.variant {
                let mut saved = String::new();
                for family in [Family::V4, Family::V6] {
                    // A variant that the kernel doesn't have holds no rules.
                    saved += &programs.save(family).await.unwrap_or_default();
                }
                found.variants.push((variant, Holds::of(&saved)));
            }
        }
        let choice = choose(&found);
        Detected {
            programs: Self {
                variant: choice.as_ref().map(|c| c.variant),
            },
            warning: choice.and_then(|c| c.warning),
        }
    }

    /// The programs that print and restore a family's rules.
    fn names(&self, family: Family) -> (&'static str, &'static str) {
        use Family::{V4, V6};
        use Variant::{Legacy, Nft};
        match (family, self.variant) {
            (V4, None) => ("iptables-save", "iptables-restore"),
            (V6, None) => ("ip6tables-save", "ip6tables-restore"),
            (V4, Some(Legacy)) => ("iptables-legacy-save", "iptables-legacy-restore"),
            (V6, Some(Legacy)) => ("ip6tables-legacy-save", "ip6tables-legacy-restore"),
            (V4, Some(Nft)) => ("iptables-nft-save", "iptables-nft-restore"),
            (V6, Some(Nft)) => ("ip6tables-nft-save", "ip6tables-nft-restore"),
        }
    }

    /// Reads our chains and jumps back from the kernel.
    pub async fn read(&self, family: Family) -> Result<Ruleset, Error> {
        Ok(Ruleset::parse(&self.save(family).await?))
    }

    /// All rules of a family, ours and others', as the program prints them.
    pub async fn saved(&self, family: Family) -> Result<String, Error> {
        self.save(family).await
    }

    /// Removes what Debian's `portmap` leaves when the last host port is gone.
    pub async fn remove_leftovers(&self, family: Family) -> Result<(), Error> {
        match leftovers(&self.save(family).await?) {
            Some(transaction) => self.apply(family, &transaction).await,
            None => Ok(()),
        }
    }

    async fn save(&self, family: Family) -> Result<String, Error> {
        let (program, _) = self.names(family);
        output(program, &[]).await
    }

    /// Carries out a transaction: all of it or, where a line is refused, none of it.
    pub async fn apply(&self, family: Family, transaction: &str) -> Result<(), Error> {
        let (_, program) = self.names(family);
        let fail = |source| Error::Start { program, source };
        let mut child = Command::new(program)
            .args(["--noflush", "--wait", LOCK_SECONDS])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(fail)?;
        let mut input = child
            .stdin
            .take()
            .ok_or_else(|| fail(std::io::ErrorKind::BrokenPipe.into()))?;
        let send = async move {
            // A program that refuses a line may end before it has read all: its words tell more than the broken pipe.
            let _ = input.write_all(transaction.as_bytes()).await;
        };
        let ((), output) = tokio::join!(send, child.wait_with_output());
        let output = output.map_err(fail)?;
        if output.status.success() {
            Ok(())
        } else {
            Err(refused(program, &output.stderr))
        }
    }
}

/// What `iptables` is, if it is there.
async fn version() -> Option<Variant> {
    let text = output("iptables", &["--version"]).await.ok()?;
    Variant::of_version(&text)
}

pub(crate) async fn output(program: &'static str, args: &[&str]) -> Result<String, Error> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.map_err(|source| Error::Start { program, source })?;
    if !output.status.success() {
        return Err(refused(program, &output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn refused(program: &'static str, stderr: &[u8]) -> Error {
    Error::Refused {
        program,
        message: String::from_utf8_lossy(stderr).trim().replace('\n', "; "),
    }
}
