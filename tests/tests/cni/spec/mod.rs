//! The specification, clause by clause, for each version that has the clause: what it says in few words, and the test.

mod call;
mod commands;
mod results;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Output;

use serde_json::{Value, json};

use crate::bed::{Bed, environment, with};

/// All versions, oldest first.
const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A clause: the section it is of, the version since which it is there, what it says, and what shows it.
struct Clause {
    section: &'static str,
    since: &'static str,
    says: &'static str,
    test: fn(&Walk<'_>),
}

const fn clause(
    section: &'static str,
    since: &'static str,
    says: &'static str,
    test: fn(&Walk<'_>),
) -> Clause {
    Clause {
        section,
        since,
        says,
        test,
    }
}

/// The table. Sections are those of edition 1.1.0.
const CLAUSES: &[Clause] = &[
    clause(
        "1 configuration",
        "0.1.0",
        "without a version it is of the oldest",
        call::no_version,
    ),
    clause(
        "1 configuration",
        "0.1.0",
        "a name is needed, of letters, digits and a few signs",
        call::names,
    ),
    clause(
        "1 configuration",
        "0.1.0",
        "unknown fields are for others; the versions of the list are for runtimes",
        call::other_fields,
    ),
    clause(
        "2 parameters",
        "0.1.0",
        "a variable that is needed and missing is named",
        call::missing_variables,
    ),
    clause(
        "2 parameters",
        "0.1.0",
        "container and interface have names that can be",
        call::hostile_names,
    ),
    clause(
        "2 parameters",
        "0.1.0",
        "extra arguments are pairs, separated by semicolons",
        call::extra_arguments,
    ),
    clause(
        "2 parameters",
        "0.1.0",
        "there are no other commands",
        call::other_commands,
    ),
    clause(
        "2 errors",
        "0.1.0",
        "an error is an exit code, and an object with version, code and message",
        call::error_form,
    ),
    clause(
        "2 errors",
        "0.1.0",
        "1: a version that is not understood",
        call::unknown_version,
    ),
    clause(
        "2 errors",
        "0.1.0",
        "3: a container that does not exist",
        call::unknown_container,
    ),
    clause(
        "2 errors",
        "0.1.0",
        "6: what is not JSON, or not of the right form",
        call::undecodable,
    ),
    clause(
        "2 errors",
        "0.1.0",
        "7: a configuration that can't be",
        call::impossible,
    ),
    clause(
        "2 ADD",
        "0.1.0",
        "the interface is made under the name asked for, as the result says",
        commands::add,
    ),
    clause(
        "2 ADD",
        "0.1.0",
        "an interface that is there already is an error, and stays",
        commands::add_twice,
    ),
    clause(
        "2 ADD",
        "0.1.0",
        "one that fails leaves nothing",
        commands::add_fails,
    ),
    clause(
        "2 DEL",
        "0.1.0",
        "all is freed, and once more is no error",
        commands::del,
    ),
    clause(
        "2 DEL",
        "0.1.0",
        "it is no error that the namespace is gone, or was never told",
        commands::del_without_namespace,
    ),
    clause(
        "2 DEL",
        "0.1.0",
        "it is no error that link or address are gone, or that there never were any",
        commands::del_of_nothing,
    ),
    clause(
        "2 DEL",
        "0.4.0",
        "it comes with the result of ADD",
        commands::del_with_result,
    ),
    clause(
        "2 CHECK",
        "0.4.0",
        "nothing is printed when all is as ADD left it",
        commands::check,
    ),
    clause(
        "2 CHECK",
        "0.4.0",
        "the result of ADD is needed",
        commands::check_needs_result,
    ),
    clause(
        "2 CHECK",
        "0.4.0",
        "what is gone is an error: interface, address, route, reservation, bridge",
        commands::check_finds,
    ),
    clause(
        "2 STATUS",
        "1.1.0",
        "nothing is printed when ADD could be served, else 50",
        commands::status,
    ),
    clause(
        "2 GC",
        "1.1.0",
        "what no valid attachment has is freed, and nothing is printed",
        commands::gc,
    ),
    clause(
        "2 GC",
        "1.1.0",
        "the list is needed, by either of its names",
        commands::gc_needs_list,
    ),
    clause(
        "2 VERSION",
        "0.1.0",
        "all versions are told, in the one that was asked in",
        commands::versions,
    ),
    clause(
        "2 commands",
        "0.1.0",
        "a command is refused in a version that does not have it",
        commands::newer_commands,
    ),
    clause(
        "3 chains",
        "0.3.0",
        "a result before is handed on",
        results::handed_on,
    ),
    clause(
        "4 delegation",
        "0.1.0",
        "address management is another plugin, found by its name and asked in the same version",
        results::delegated,
    ),
    clause(
        "4 delegation",
        "0.1.0",
        "a failed ADD frees what was given to it",
        results::delegated_failure,
    ),
    clause(
        "4 delegation",
        "0.4.0",
        "CHECK asks it too",
        results::delegated_check,
    ),
    clause(
        "5 results",
        "0.1.0",
        "a result has the form of its version",
        results::forms,
    ),
    clause(
        "5 results",
        "0.1.0",
        "address management tells addresses, routes and DNS, and no interfaces",
        results::abbreviated,
    ),
];

/// A version, walked.
struct Walk<'a> {
    bed: &'a Bed,
    version: &'a str,
}

#[test]
fn every_clause_in_every_version() {
    let mut failed = Vec::new();
    for version in VERSIONS {
        for c in CLAUSES.iter().filter(|c| c.since <= version) {
            let bed = Bed::new();
            let walk = Walk { bed: &bed, version };
            let done = catch_unwind(AssertUnwindSafe(|| (c.test)(&walk)));
            let word = if done.is_ok() { "ok" } else { "FAILED" };
            eprintln!("{word}: {version}: {}: {}", c.section, c.says);
            failed.extend(done.is_err().then(|| format!("{version}: {}", c.says)));
        }
    }
    assert!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
}

impl Walk<'_> {
    fn conf(&self) -> Value {
        self.bed.bridge_with(json!({"cniVersion": self.version}))
    }

    fn with(&self, fields: Value) -> Value {
        with(self.conf(), fields)
    }

    fn call(&self, command: &str, pod: &str, conf: &Value) -> Result<Value, Value> {
        self.bed.call("bridge", command, pod, conf)
    }

    fn code(&self, command: &str, pod: &str, conf: &Value) -> Value {
        let error = self.call(command, pod, conf).expect_err("an error");
        assert_eq!(error["cniVersion"], self.version, "{error}");
        error["code"].clone()
    }

    /// The same with some variables changed, or, where there is no value, taken away.
    fn with_env(
        &self,
        command: &str,
        pod: &str,
        change: &[(&'static str, Option<&str>)],
    ) -> Output {
        let mut env = environment(command, pod, "eth0");
        for (name, value) in change {
            env.retain(|(n, _)| n != name);
            env.extend(value.map(|v| (*name, v.to_owned())));
        }
        self.bed
            .run("bridge", &env, self.conf().to_string().as_bytes())
    }

    /// How many addresses and links pods have.
    fn held(&self) -> (usize, usize) {
        (self.bed.allocations().len(), self.bed.ports())
    }

    fn assert_empty(&self) {
        assert_eq!(self.held(), (0, 0));
    }
}
