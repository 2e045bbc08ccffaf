//! Host ports: the reference plugin `portmap` does them, by delegation (CNI specification, section 4), and is started
//! only for an attachment that has some. As a link of the chain it would be started for every pod, to do nothing.

use std::io::Write;
use std::process::{Command, Stdio};

use keelson_cni_plan::config::NetConf;
use keelson_cni_plan::protocol::{Args, Error, code};
use serde_json::{Value, json};

const PLUGIN: &str = "portmap";
/// What Debian 12's understands. Later versions only add fields to it, so its answer, which is the result it was given
/// and no more, is not used.
const NEWEST: &str = "1.0.0";

/// Has `portmap` carry the present command out, if the attachment has host ports.
pub(crate) fn delegate(args: &Args, conf: &NetConf, previous: Option<&Value>) -> Result<(), Error> {
    if conf.runtime_config.port_mappings.is_empty() {
        return Ok(());
    }
    let fail = |details: String| Error::new(code::DELEGATE_FAILED, PLUGIN, details);
    let mut places = args.path.iter().map(|dir| dir.join(PLUGIN));
    let program = places.find(|path| path.is_file()).ok_or_else(|| {
        fail("host ports need it, and it is in no directory of CNI_PATH".to_owned())
    })?;
    let asked = request(conf, previous);
    // The environment is the same: command, container, namespace.
    let mut child = Command::new(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| fail(format!("start {}: {e}", program.display())))?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends before it has read it says why.
        let _ = input.write_all(asked.to_string().as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|e| fail(format!("wait for {}: {e}", program.display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = explain(&output.stdout);
    Err(fail(said.unwrap_or_else(|| output.status.to_string())))
}

/// What `portmap` reads.
fn request(conf: &NetConf, previous: Option<&Value>) -> Value {
    let version = match conf.version() {
        "1.1.0" => NEWEST,
        older => older,
    };
    let mut asked = json!({
        "cniVersion": version,
        "name": conf.name,
        "type": PLUGIN,
        "runtimeConfig": {"portMappings": conf.runtime_config.port_mappings},
    });
    if let Some(previous) = previous {
        let mut previous = previous.clone();
        // What is no result is refused by who reads it.
        if let Some(fields) = previous.as_object_mut() {
            fields.insert("cniVersion".into(), json!(version));
        }
        asked["prevResult"] = previous;
    }
    asked
}

/// The error that a plugin printed.
fn explain(printed: &[u8]) -> Option<String> {
    let error: Value = serde_json::from_slice(printed).ok()?;
    let text = |key: &str| error.get(key)?.as_str().filter(|t| !t.is_empty());
    let said = text("msg")?;
    Some(match text("details") {
        Some(details) => format!("{said}: {details}"),
        None => said.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_in_a_version_it_knows() {
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let rows = [
            (
                "1.1.0",
                json!({"cniVersion": "1.1.0", "ips": []}),
                json!({"cniVersion": "1.0.0", "ips": []}),
            ),
            (
                "0.4.0",
                json!({"ips": []}),
                json!({"cniVersion": "0.4.0", "ips": []}),
            ),
            ("1.0.0", json!("no result"), json!("no result")),
        ];
        for (version, previous, want) in rows {
            let conf = json!({"cniVersion": version, "name": "pods", "runtimeConfig": {"portMappings": ports},
                "ipam": {"ranges": [[{"subnet": "10.99.0.0/24"}]]}});
            let conf = NetConf::parse(conf.to_string().as_bytes()).expect("valid");
            let asked = request(&conf, Some(&previous));
            assert_eq!(asked["prevResult"], want, "{version}");
            assert_eq!(asked["runtimeConfig"]["portMappings"], ports);
            assert_eq!(request(&conf, None).get("prevResult"), None);
        }
    }

    #[test]
    fn its_errors_are_told() {
        let rows: [(&str, Option<&str>); 4] = [
            (r#"{"msg": "a", "details": "b"}"#, Some("a: b")),
            (r#"{"msg": "a", "details": ""}"#, Some("a")),
            (r#"["a"]"#, None),
            ("words", None),
        ];
        for (printed, want) in rows {
            assert_eq!(explain(printed.as_bytes()).as_deref(), want, "{printed}");
        }
    }
}
