//! Host ports: the plugin `portmap` does them, by delegation, and is started only for an attachment that has some. As a
//! link of the chain it would be started for every pod, to do nothing.

use keelson_cni_plan::config::NetConf;
use keelson_cni_plan::protocol::{Args, Command, Error};
use serde_json::{Value, json};

use crate::exec;

const PLUGIN: &str = "portmap";

/// Has `portmap` carry a command out, if the attachment has host ports.
pub(crate) fn delegate(
    args: &Args,
    conf: &NetConf,
    command: Command,
    previous: Option<&Value>,
) -> Result<(), Error> {
    let ports = &conf.runtime_config.port_mappings;
    if ports.is_empty() {
        return Ok(());
    }
    let mut asked = json!({
        "cniVersion": conf.version(),
        "name": conf.name,
        "type": PLUGIN,
        "runtimeConfig": {"portMappings": ports},
    });
    if let Some(previous) = previous {
        asked["prevResult"] = previous.clone();
    }
    // Its result is the one it was given and no more.
    exec::call(args, PLUGIN, command, &asked).map(|_| ())
}
