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
    let ports = &conf.runtime_config.port_mappings;
    if ports.is_empty() {
        return Ok(());
    }
    let fail = |details: String| Error::new(code::DELEGATE_FAILED, PLUGIN, details);
    let mut places = args.path.iter().map(|dir| dir.join(PLUGIN));
    let program = places.find(|path| path.is_file()).ok_or_else(|| {
        fail("host ports need it, and it is in no directory of CNI_PATH".to_owned())
    })?;
    let version = match conf.version() {
        "1.1.0" => NEWEST,
        older => older,
    };
    let mut asked = json!({
        "cniVersion": version,
        "name": conf.name,
        "type": PLUGIN,
        "runtimeConfig": {"portMappings": ports},
    });
    if let Some(previous) = previous {
        asked["prevResult"] = previous.clone();
        asked["prevResult"]["cniVersion"] = json!(version);
    }
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
    let printed: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    let text = |key: &str| {
        let value = printed.as_ref().and_then(|p| p[key].as_str());
        value.map(str::to_owned)
    };
    let said = text("msg").unwrap_or_else(|| output.status.to_string());
    Err(fail(match text("details").filter(|d| !d.is_empty()) {
        Some(details) => format!("{said}: {details}"),
        None => said,
    }))
}
