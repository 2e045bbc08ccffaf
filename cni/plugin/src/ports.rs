//! Host ports of the bridge's containers: what the type `portmap` does, in this very process. As a link of the chain it
//! would be started for every pod, to do nothing.

use keelson_cni_plan::config::NetConf;
use keelson_cni_plan::portmap::Conf;
use keelson_cni_plan::protocol::{Args, Command, Error};
use serde_json::{Value, json};

use crate::portmap;

/// Carries the present command out for the attachment's host ports, if it has some. GC is for all.
pub(crate) async fn command(
    args: &Args,
    conf: &NetConf,
    previous: Option<&Value>,
) -> Result<(), Error> {
    let mappings = &conf.runtime_config.port_mappings;
    if mappings.is_empty() && args.command != Command::Gc {
        return Ok(());
    }
    let asked = json!({
        "name": conf.name,
        "runtimeConfig": {"portMappings": mappings},
        "prevResult": previous,
    });
    let mut asked = Conf::parse(asked.to_string().as_bytes())?;
    asked.valid_attachments.clone_from(&conf.valid_attachments);
    portmap::command(args, &asked).await
}
