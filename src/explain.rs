//! `keelson explain`: answers about what runs, without changing it.

use clap::{Subcommand, ValueEnum};
use keelson_proxy::explain::{self, Question};

use crate::proxy::Of;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    of: Of,
}

#[derive(Subcommand)]
enum Command {
    /// What becomes of a connection on this node: which service it is for, which endpoints it may go to and how likely,
    /// by which rules, what network policies and others' rules do with it, where it leaves, and where existing
    /// connections go. Reads what is live, whatever carries services here, and changes nothing.
    Connection {
        /// An address, NAMESPACE/POD, or "node" for a process of this node.
        from: String,
        /// ADDRESS:PORT, NAMESPACE/SERVICE[:PORT] or NAMESPACE/POD:PORT.
        to: String,
        /// Protocol.
        #[arg(long, value_enum, default_value_t)]
        protocol: Protocol,
    },
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// Runs the command.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let (config, client) = args.of.config().await?;
    let Command::Connection { from, to, protocol } = args.command;
    let (to, port) = split(&to)?;
    let question = Question {
        from,
        to,
        port,
        protocol: match protocol {
            Protocol::Tcp => keelson_proxy::Protocol::Tcp,
            Protocol::Udp => keelson_proxy::Protocol::Udp,
            Protocol::Sctp => keelson_proxy::Protocol::Sctp,
        },
    };
    print!(
        "{}",
        explain::connection(&config, &client, &question).await?
    );
    Ok(())
}

/// `TO[:PORT]`; an IPv6 address with a port stands in brackets.
fn split(to: &str) -> anyhow::Result<(String, Option<u16>)> {
    if let Ok(socket) = to.parse::<std::net::SocketAddr>() {
        return Ok((socket.ip().to_string(), Some(socket.port())));
    }
    if to.parse::<std::net::IpAddr>().is_ok() {
        return Ok((to.to_owned(), None));
    }
    match to.split_once(':') {
        None => Ok((to.to_owned(), None)),
        Some((name, port)) => {
            let number = port.parse::<u16>().ok().filter(|p| *p > 0);
            let number =
                number.ok_or_else(|| anyhow::anyhow!("TO {to}: {port} is no port (1 to 65535)"))?;
            Ok((name.to_owned(), Some(number)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_with_and_without_a_port() {
        type Parts = (&'static str, Option<u16>);
        let cases: &[(&str, Option<Parts>)] = &[
            ("10.43.0.1:80", Some(("10.43.0.1", Some(80)))),
            ("10.43.0.1", Some(("10.43.0.1", None))),
            ("[fd43::1]:443", Some(("fd43::1", Some(443)))),
            ("fd43::1", Some(("fd43::1", None))),
            ("default/web", Some(("default/web", None))),
            ("default/web:8080", Some(("default/web", Some(8080)))),
            ("default/web:http", None),
            ("default/web:0", None),
            ("default/web:70000", None),
        ];
        for (text, want) in cases {
            let want = want.map(|(to, port)| (to.to_owned(), port));
            assert_eq!(split(text).ok(), want, "{text}");
        }
    }
}
