//! Small programs for an image without a shell: probes and tests exec them.

use std::fs::File;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

/// Runs one by its name.
pub(crate) fn run(name: &str, args: &[String]) -> ExitCode {
    let result = match name {
        "true" => Ok(()),
        "false" => return ExitCode::FAILURE,
        "sleep" => sleep(args),
        "cat" => cat(args),
        "env" => {
            std::env::vars().for_each(|(name, value)| println!("{name}={value}"));
            Ok(())
        }
        _ => Err("no such command; see --help".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keelson-echo {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn sleep(args: &[String]) -> Result<(), String> {
    let seconds = args.first().ok_or("needs seconds")?;
    if seconds == "infinity" {
        loop {
            std::thread::sleep(Duration::MAX);
        }
    }
    let seconds: f64 = seconds
        .parse()
        .map_err(|_| format!("bad number {seconds}"))?;
    let time = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    std::thread::sleep(time);
    Ok(())
}

fn cat(args: &[String]) -> Result<(), String> {
    let mut out = io::stdout().lock();
    if args.is_empty() {
        io::copy(&mut io::stdin().lock(), &mut out).map_err(|error| error.to_string())?;
    }
    for path in args {
        let copied = File::open(path).and_then(|mut file| io::copy(&mut file, &mut out));
        copied.map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}
