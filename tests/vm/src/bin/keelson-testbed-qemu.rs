//! What `scripts/testbed qemu` runs: keeps a bed, and asks the one that is kept.
//!
//!     keelson-testbed-qemu keep FILE FOLDER           boots, installs and joins all nodes; ends with SIGTERM. FOLDER gets
//!                                                     the socket, and a file `ready` when all nodes are
//!     keelson-testbed-qemu exec FOLDER MACHINE SCRIPT runs bash on a machine
//!     keelson-testbed-qemu server FILE                says which machine is the server
//!     keelson-testbed-qemu clear FILE                 removes the networks of a bed that was killed

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use keelson_tests_vm::bed::{self, Bed, By};
use keelson_tests_vm::{Dist, Output};

/// The socket in the bed's folder.
const LINE: &str = "line";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["keep", file, folder] => keep(Path::new(file), Path::new(folder)).map(|()| 0),
        ["exec", folder, machine, script] => exec(Path::new(folder), machine, script),
        ["server", file] => bed::read(Path::new(file)).map(|layout| {
            println!("{}", bed::server(&layout));
            0
        }),
        ["clear", file] => bed::read(Path::new(file))
            .and_then(|layout| bed::clear(&layout))
            .map(|()| 0),
        _ => Err(anyhow::anyhow!(
            "keep FILE FOLDER, exec FOLDER MACHINE SCRIPT, server FILE or clear FILE"
        )),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("keelson-testbed-qemu: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Machines end with this process, and `clear` takes what it leaves when it is killed.
fn keep(file: &Path, folder: &Path) -> anyhow::Result<()> {
    let layout = bed::read(file)?;
    let mut bed = Bed::boot(layout, &Dist::make()?)?;
    println!("booted");
    for (place, name) in bed.names().iter().enumerate() {
        // Both ways that users have.
        let by = if place % 2 == 0 {
            By::Package
        } else {
            By::Script
        };
        bed.install(name, by);
        println!("{name} is ready");
    }
    let listener = UnixListener::bind(folder.join(LINE)).context("make the bed's socket")?;
    fs::write(folder.join("ready"), "")?;
    for stream in listener.incoming() {
        if let Err(error) = answer(&mut bed, stream?) {
            eprintln!("keelson-testbed-qemu: {error:#}");
        }
    }
    Ok(())
}

/// A machine's name on a line, then a script; back goes an exit code on a line, then what was said.
fn answer(bed: &mut Bed, mut stream: UnixStream) -> anyhow::Result<()> {
    let (mut name, mut script) = (String::new(), String::new());
    let mut reader = BufReader::new(stream.try_clone()?);
    reader.read_line(&mut name)?;
    reader.read_to_string(&mut script)?;
    let Output { code, text } = bed.run(name.trim_end(), &script).unwrap_or_else(|error| {
        let text = format!("{error:#}");
        Output { code: 2, text }
    });
    writeln!(stream, "{code}\n{text}")?;
    Ok(())
}

fn exec(folder: &Path, machine: &str, script: &str) -> anyhow::Result<u8> {
    if machine.contains('\n') {
        bail!("{machine:?} is no machine's name");
    }
    let line = UnixStream::connect(folder.join(LINE));
    let mut stream = line.context("no bed is kept here: scripts/testbed qemu up")?;
    write!(stream, "{machine}\n{script}")?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (code, text) = said
        .split_once('\n')
        .context("the bed ended while it was asked")?;
    print!("{text}");
    Ok(code.parse::<i32>()?.try_into().unwrap_or(1))
}
