//! Other plugins, called as the runtime calls this one (specification, section 4, "Plugin Delegation").

use std::io::Write;
use std::path::PathBuf;
use std::process::{self, Stdio};

use keelson_cni_plan::protocol::{Args, Command, Error, code};
use keelson_cni_plan::result::Success;
use serde_json::{Value, json};

/// What plugins understand that do not know the newest version, as Debian 12's: results of later ones only have more
/// fields.
const OLDER: &str = "1.0.0";

/// Has a plugin carry a command out; its result, if it printed one. One that does not know the version is asked again
/// in an older one, and one that does not know GC or STATUS has nothing to say to them.
pub(crate) fn call(
    args: &Args,
    plugin: &str,
    command: Command,
    conf: &Value,
) -> Result<Option<Value>, Error> {
    let program = find(args, plugin)?;
    let said = run(&program, plugin, command, conf);
    // What an older plugin says to a command that it does not know, and to an environment without a container.
    const UNKNOWN: [u32; 3] = [
        code::INCOMPATIBLE_VERSION,
        code::INVALID_ENVIRONMENT,
        code::UNKNOWN_CONTAINER,
    ];
    let newer_command = matches!(command, Command::Gc | Command::Status);
    let unknown = |e: &Error| newer_command && UNKNOWN.contains(&e.code);
    match said {
        Err(e) if unknown(&e) => Ok(None),
        Err(e) if e.code == code::INCOMPATIBLE_VERSION && newer(conf) => {
            run(&program, plugin, command, &lowered(conf))
        }
        other => other,
    }
}

fn newer(conf: &Value) -> bool {
    conf["cniVersion"].as_str().is_some_and(|v| v > OLDER)
}

/// The same configuration in the older version.
fn lowered(conf: &Value) -> Value {
    let mut conf = conf.clone();
    if let Some(previous) = conf.get("prevResult") {
        // What is no result is refused by who reads it.
        let older = Success::parse(previous, OLDER).map(|r| r.render(OLDER));
        conf["prevResult"] = older.unwrap_or_else(|_| previous.clone());
    }
    conf["cniVersion"] = json!(OLDER);
    conf
}

/// Where the plugin is: in the first directory of `CNI_PATH` that has it.
fn find(args: &Args, plugin: &str) -> Result<PathBuf, Error> {
    let fail = |why: &str| Error::new(code::DELEGATE_FAILED, format!("plugin {plugin:?}"), why);
    if plugin.contains('/') || plugin.starts_with('.') {
        return Err(fail("this is no plugin's name"));
    }
    let mut places = args.path.iter().map(|dir| dir.join(plugin));
    let found = places.find(|path| path.is_file());
    found.ok_or_else(|| fail("it is needed, and it is in no directory of CNI_PATH"))
}

fn run(
    program: &PathBuf,
    plugin: &str,
    command: Command,
    conf: &Value,
) -> Result<Option<Value>, Error> {
    let fail = |why: String| Error::new(code::DELEGATE_FAILED, format!("plugin {plugin}"), why);
    // Otherwise the environment is the same: container, interface, namespace.
    let child = process::Command::new(program)
        .env("CNI_COMMAND", command.name())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|e| fail(format!("start {}: {e}", program.display())))?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends before it has read it says why.
        let _ = input.write_all(conf.to_string().as_bytes());
    }
    let output = child.wait_with_output();
    let output = output.map_err(|e| fail(format!("wait for {}: {e}", program.display())))?;
    let printed = serde_json::from_slice(&output.stdout).ok();
    if !output.status.success() {
        let told = printed.and_then(|p| told(&p, plugin));
        return Err(told.unwrap_or_else(|| fail(output.status.to_string())));
    }
    Ok(printed)
}

/// The error that a plugin printed.
fn told(printed: &Value, plugin: &str) -> Option<Error> {
    let text = |key: &str| printed.get(key).and_then(Value::as_str).unwrap_or_default();
    let code = printed.get("code").and_then(Value::as_u64);
    let code = code.and_then(|c| u32::try_from(c).ok()).filter(|c| *c != 0);
    let said = [text("msg"), text("details")].map(str::trim);
    let said: Vec<&str> = said.into_iter().filter(|t| !t.is_empty()).collect();
    if code.is_none() && said.is_empty() {
        return None;
    }
    let code = code.unwrap_or(code::DELEGATE_FAILED);
    Some(Error::new(
        code,
        format!("plugin {plugin}"),
        said.join(": "),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_plugin_gets_an_older_result() {
        let conf = json!({"cniVersion": "1.1.0", "name": "pods", "prevResult":
            {"cniVersion": "1.1.0", "interfaces": [{"name": "a", "mtu": 1400}], "ips": []}});
        assert!(newer(&conf));
        let older = lowered(&conf);
        assert_eq!(older["prevResult"]["cniVersion"], OLDER);
        assert_eq!(older["prevResult"]["interfaces"][0].get("mtu"), None);
        assert!(!newer(&older));
        let none = lowered(&json!({"prevResult": "no result"}));
        assert_eq!(none["prevResult"], "no result");
    }

    #[test]
    fn errors_keep_their_code() {
        let rows: [(Value, Option<(u32, &str)>); 5] = [
            (
                json!({"code": 11, "msg": "a", "details": "b"}),
                Some((11, "a: b")),
            ),
            (
                json!({"msg": "a", "details": ""}),
                Some((code::DELEGATE_FAILED, "a")),
            ),
            (json!({"code": 7}), Some((7, ""))),
            (json!(["a"]), None),
            (json!({"code": -1}), None),
        ];
        for (printed, want) in rows {
            let got = told(&printed, "x").map(|e| (e.code, e.details));
            assert_eq!(got, want.map(|(c, d)| (c, d.to_owned())), "{printed}");
        }
    }

    #[test]
    fn only_names_are_looked_for() {
        for name in ["../x", "a/b", "/bin/sh", ".", "no-such-plugin"] {
            let args = Args {
                path: vec!["/bin".into()],
                ..Args::default()
            };
            assert_eq!(
                find(&args, name).expect_err(name).code,
                code::DELEGATE_FAILED
            );
        }
    }
}
