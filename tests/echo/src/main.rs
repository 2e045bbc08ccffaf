//! The demo's server: answers over HTTP and UDP who it is, and carries the few small tools an image
//! without a shell lacks. Nothing but the standard library and signals.

mod drain;
mod http;
mod tools;
mod udp;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use drain::Drain;
use nix::sys::signal::{SigSet, Signal};

const HELP: &str = "\
keelson-echo: says who answered

usage: keelson-echo [-listen [ADDRESS]:PORT] [-linger SECONDS]
       keelson-echo sleep SECONDS | true | false | cat [FILE...] | env
       keelson-echo --version | --help

  GET /             one line: pod, node, own and client address
  GET /healthz      ok
  GET /headers      the request's headers
  GET /slow?ms=N    answers after N milliseconds
  GET /exit?code=N  answers, then ends with that code
  UDP               the same line, then the datagram

On SIGTERM it goes on accepting for -linger seconds (default 1), finishes what it has begun, and ends.
";

/// What the server is asked to do.
struct Options {
    listen: String,
    linger: Duration,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--version" | "-version" | "version") => {
            println!("keelson-echo {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some("--help" | "-h" | "help") => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Some(name) if !name.starts_with('-') => tools::run(name, args.get(1..).unwrap_or_default()),
        _ => match options(&args).and_then(|options| serve(&options)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("keelson-echo: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut options = Options {
        listen: ":8080".into(),
        linger: Duration::from_secs(1),
    };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let (name, given) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag.as_str(), None),
        };
        let mut value = || {
            let value = given.clone().or_else(|| args.next().cloned());
            value.ok_or_else(|| format!("{name} needs a value"))
        };
        match name.trim_start_matches('-') {
            "listen" => options.listen = value()?,
            "linger" => {
                let seconds: f64 = value()?.parse().map_err(|_| "-linger needs seconds")?;
                options.linger = Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?;
            }
            _ => return Err(format!("unknown flag {flag}; see --help")),
        }
    }
    Ok(options)
}

/// The addresses `listen` can mean, in the order they are tried: `:8080` is both families.
fn addresses(listen: &str) -> Result<Vec<SocketAddr>, String> {
    match listen.strip_prefix(':') {
        Some(port) => {
            let port = port.parse().map_err(|_| format!("bad port in {listen}"))?;
            Ok(vec![
                (Ipv6Addr::UNSPECIFIED, port).into(),
                (Ipv4Addr::UNSPECIFIED, port).into(),
            ])
        }
        None => Ok(vec![
            listen
                .parse()
                .map_err(|_| format!("bad address {listen}"))?,
        ]),
    }
}

fn serve(options: &Options) -> Result<(), String> {
    let addresses = addresses(&options.listen)?;
    let failed = |error: std::io::Error| format!("listen on {}: {error}", options.listen);
    // Before any thread: they inherit the mask, and only this one waits for the signal.
    let stop: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    stop.thread_block()
        .map_err(|errno| format!("block signals: {errno}"))?;

    let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let socket = UdpSocket::bind(address).map_err(failed)?;
    let drain = Arc::new(Drain::default());
    std::thread::spawn(move || udp::serve(&socket));
    let accepting = std::thread::spawn({
        let drain = Arc::clone(&drain);
        move || http::accept(&listener, &drain)
    });
    println!(
        "keelson-echo {} listens on {address}",
        env!("CARGO_PKG_VERSION")
    );

    let signal = stop
        .wait()
        .map_err(|errno| format!("wait for signals: {errno}"))?;
    println!("{signal}: draining");
    drain.begin();
    // Whoever routes to us needs a moment to hear that we go.
    std::thread::sleep(options.linger);
    drain.close();
    accepting.join().map_err(|_| "the accept loop panicked")?;
    drain.wait(Duration::from_secs(20));
    Ok(())
}

/// Who answers: one line without its end.
pub(crate) fn identity(own: SocketAddr, client: SocketAddr) -> String {
    let name = std::env::var("POD_NAME").ok().or_else(|| {
        let name = nix::unistd::gethostname().ok()?;
        name.into_string().ok()
    });
    let name = name.unwrap_or_else(|| "-".into());
    let node = std::env::var("NODE_NAME").unwrap_or_else(|_| "-".into());
    let (own, client) = (own.ip().to_canonical(), client.ip().to_canonical());
    format!("pod={name} node={node} ip={own} client={client}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_in_both_forms() {
        let read = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(ToString::to_string).collect();
            options(&args).map(|options| (options.listen, options.linger.as_millis()))
        };
        assert_eq!(read(&[]), Ok((":8080".into(), 1000)));
        assert_eq!(
            read(&["-listen", ":1", "--linger=0.5"]),
            Ok((":1".into(), 500))
        );
        assert!(read(&["-listen"]).is_err());
        assert!(read(&["-port", "1"]).is_err());
        assert!(read(&["-linger", "-1"]).is_err());
    }
}
