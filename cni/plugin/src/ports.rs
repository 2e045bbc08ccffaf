//! Host ports of the bridge's containers: what the type `portmap` does, in this very process. As a link of the chain it
//! would be started for every pod, to do nothing.

use keelson_cni_plan::config::NetConf;
use keelson_cni_plan::portmap::Conf;
use keelson_cni_plan::protocol::{Args, Command, Error};
use serde_json::Value;

use crate::portmap;

/// Carries a command out for the attachment's host ports, if it has some. GC is for all.
pub(crate) fn delegate(
    args: &Args,
    conf: &NetConf,
    command: Command,
    previous: Option<&Value>,
) -> Result<(), Error> {
    let ports = &conf.runtime_config.port_mappings;
    if ports.is_empty() && command != Command::Gc {
        return Ok(());
    }
    let mut asked = Conf::of(conf)?;
    asked.net.prev_result = previous.cloned();
    portmap::command(args, &asked, command)
}
