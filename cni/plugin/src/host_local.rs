//! Type `host-local`: address management on its own, for plugins of others.

use keelson_cni_plan::config::NetConf;
use keelson_cni_plan::host_local::HostLocal;
use keelson_cni_plan::protocol::{Args, Command, Error};
use keelson_cni_plan::result::Success;
use serde_json::Value;

use crate::ipam::Manager;

/// Runs a command; what is to be printed, if anything.
pub(crate) fn run(args: &Args, input: &[u8]) -> Result<Option<Value>, Error> {
    let conf = NetConf::parse(input)?;
    // Who calls it has named it by its type, or by another name.
    let manager = Manager::Own(Box::new(HostLocal::parse(input, &conf, args)?));
    match args.command {
        Command::Add => {
            let success = manager.add(args, conf.version())?;
            return Ok(Some(success.render(conf.version())));
        }
        Command::Del => _ = manager.del(args)?,
        Command::Check => {
            let previous = conf.prev_result.as_ref();
            let previous = previous.map(|r| Success::parse(r, conf.version()));
            manager.check(args, &previous.transpose()?.unwrap_or_default())?;
        }
        Command::Gc => _ = manager.gc(args, &conf)?,
        Command::Status => manager.status(args)?,
        Command::Version => {}
    }
    Ok(None)
}
