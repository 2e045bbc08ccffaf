//! Tests whose code runs in a machine: the machine runs the very program that the test is in, which finds itself inside.

use crate::Machine;

/// Set inside of the machine.
const INSIDE: &str = "KEELSON_TEST_INSIDE";

/// Runs the test of this name in a machine that a script has prepared; there, it is what is given.
///
/// # Panics
/// When it fails inside, with what it wrote.
pub fn in_machine(test: &str, prepare: &str, inside: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let program = std::env::current_exe().expect("own path");
    let name = program.file_name().expect("a name").to_string_lossy();
    let run =
        format!("{prepare}\n{INSIDE}=1 /opt/keelson/bin/{name} --exact {test} --nocapture 2>&1");
    println!("{}", Machine::bare(&program).sh(&run));
}
