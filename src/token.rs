//! `keelson token`: bootstrap tokens, as Secrets in kube-system that kubeadm and kubectl know too.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use k8s_openapi::api::core::v1::Secret;
use keelson_auth::token::bootstrap::{Join, NAMESPACE, Token};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};

use crate::cluster;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// kubeconfig of an administrator.
    #[arg(
        long,
        global = true,
        env = "KUBECONFIG",
        default_value = "/etc/keelson/admin.kubeconfig"
    )]
    kubeconfig: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a token and prints it.
    Create {
        /// How long nodes may join with it, such as 30m, 24h or 0 for ever.
        #[arg(long, default_value = "24h", value_parser = duration)]
        ttl: Duration,
        /// What it is for.
        #[arg(long, default_value = "made by keelson token create")]
        description: String,
    },
    /// Lists tokens, without their secrets.
    List,
    /// Deletes a token.
    Delete {
        /// The six letters and digits behind the double colon of the token.
        id: String,
    },
}

/// Runs the command.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let config = cluster::access(&args.kubeconfig).await?;
    let ca = config
        .root_cert
        .clone()
        .and_then(|c| c.into_iter().next())
        .context("the kubeconfig has no certificate authority")?;
    let secrets = Api::<Secret>::namespaced(Client::try_from(config)?, NAMESPACE);
    match args.command {
        Command::Create { ttl, description } => {
            let token = Token::generate();
            let expires = (!ttl.is_zero()).then(|| jiff::Timestamp::now() + ttl);
            let secret = serde_json::from_value(token.to_secret(&description, expires, &[]))?;
            secrets
                .create(&PostParams::default(), &secret)
                .await
                .context("make the token")?;
            println!(
                "{}",
                Join {
                    ca_hash: keelson_auth::pki::ca_hash(&ca),
                    token
                }
            );
        }
        Command::List => {
            println!("{:<8} {:<22} DESCRIPTION", "ID", "EXPIRES");
            let tokens = ListParams::default().fields("type=bootstrap.kubernetes.io/token");
            for secret in secrets.list(&tokens).await? {
                let field = |k: &str| {
                    let bytes = secret.data.as_ref().and_then(|d| d.get(k));
                    bytes.map(|b| String::from_utf8_lossy(&b.0).into_owned())
                };
                let expires = field("expiration").unwrap_or_else(|| "never".into());
                println!(
                    "{:<8} {expires:<22} {}",
                    field("token-id").unwrap_or_default(),
                    field("description").unwrap_or_default()
                );
            }
        }
        Command::Delete { id } => {
            secrets
                .delete(&format!("bootstrap-token-{id}"), &Default::default())
                .await
                .with_context(|| format!("delete token {id}"))?;
            println!("token {id} deleted");
        }
    }
    Ok(())
}

fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "" if number == "0" => 1,
        _ => return Err("a number with s, m, h or d, or 0".into()),
    };
    let n: u64 = number
        .parse()
        .map_err(|_| "a number with s, m, h or d, or 0".to_owned())?;
    Ok(Duration::from_secs(
        n.saturating_mul(seconds).min(100 * 365 * 86_400),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("90s", 90),
            ("30m", 1800),
            ("24h", 86_400),
            ("2d", 172_800),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "h", "10", "1w", "-1h", "1h30m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
