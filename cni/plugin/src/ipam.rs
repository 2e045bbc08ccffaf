//! Address management: our own, in host-local's ledger and without another process, or another plugin's.

use std::net::IpAddr;

use keelson_cni_plan::alloc::Choice;
use keelson_cni_plan::config::{Ipam, NetConf, decode};
use keelson_cni_plan::host_local::HostLocal;
use keelson_cni_plan::protocol::{Args, Command, Error, code};
use keelson_cni_plan::resolv;
use keelson_cni_plan::result::{Dns, Success};

use crate::exec;
use crate::ledger::Ledger;

/// Who manages the addresses of a network.
pub(crate) enum Manager<'a> {
    /// Nobody: there are none.
    None,
    /// We do.
    Own(Box<HostLocal>),
    /// A plugin, which gets the configuration as it came.
    Other(&'a str, &'a [u8]),
}

impl<'a> Manager<'a> {
    /// Whom the configuration names.
    pub(crate) fn of(args: &Args, conf: &'a NetConf, input: &'a [u8]) -> Result<Self, Error> {
        Ok(match conf.ipam() {
            Ipam::None => Self::None,
            Ipam::HostLocal => Self::Own(Box::new(HostLocal::parse(input, conf, args)?)),
            Ipam::Delegate(name) => Self::Other(name, input),
        })
    }

    /// Addresses for the attachment, and what goes with them.
    pub(crate) fn add(&self, args: &Args, version: &str) -> Result<Success, Error> {
        match self {
            Self::None => Ok(Success::default()),
            Self::Own(conf) => allocate(conf, args),
            Self::Other(name, input) => {
                let result = exec::call(args, name, Command::Add, &decode(input)?)?;
                let success = Success::parse(&result.unwrap_or_default(), version)?;
                if success.ips.is_empty() {
                    let why = "it gave no address";
                    return Err(Error::new(
                        code::DELEGATE_FAILED,
                        format!("plugin {name}"),
                        why,
                    ));
                }
                Ok(success)
            }
        }
    }

    /// Frees the attachment's addresses; those that are known.
    pub(crate) fn del(&self, args: &Args) -> Result<Vec<IpAddr>, Error> {
        match self {
            Self::Own(conf) => Ledger::open(conf)?.release(&args.attachment()),
            _ => self.forward(args, Command::Del).map(|()| Vec::new()),
        }
    }

    /// The attachment still has the addresses of its result.
    pub(crate) fn check(&self, args: &Args, result: &Success) -> Result<(), Error> {
        let Self::Own(conf) = self else {
            return self.forward(args, Command::Check);
        };
        let (taken, owner) = (Ledger::open(conf)?.read()?, args.attachment());
        let wrong = |why: String| Err(Error::new(code::CHECK_FAILED, "check failed", why));
        let ours = |a: &IpAddr| conf.sets.iter().flatten().any(|r| r.contains(*a));
        let told = result.addresses_of(&args.ifname);
        let told = told.iter().map(|n| n.addr()).filter(ours);
        for address in told {
            if taken.get(&address) != Some(&owner) {
                return wrong(format!(
                    "address {address} is not allocated to {}",
                    args.container
                ));
            }
        }
        match taken.values().any(|o| *o == owner) {
            true => Ok(()),
            false => wrong(format!("{} has no address allocated", args.container)),
        }
    }

    /// Frees the addresses of attachments that are not valid any more; those that are known.
    pub(crate) fn gc(&self, args: &Args, conf: &NetConf) -> Result<Vec<IpAddr>, Error> {
        let valid = conf.valid_attachments()?;
        match self {
            Self::Own(own) => Ledger::open(own)?.release_all(|o| !valid.contains(o)),
            _ => self.forward(args, Command::Gc).map(|()| Vec::new()),
        }
    }

    /// There are addresses to give.
    pub(crate) fn status(&self, args: &Args) -> Result<(), Error> {
        let Self::Own(conf) = self else {
            return self.forward(args, Command::Status);
        };
        let unavailable = |why: String| Error::new(code::NOT_AVAILABLE, "not available", why);
        let ledger = Ledger::open(conf).map_err(|e| unavailable(e.to_string()))?;
        match ledger.available()? {
            true => Ok(()),
            false => Err(unavailable(format!(
                "network {} has no address left",
                conf.network
            ))),
        }
    }

    fn forward(&self, args: &Args, command: Command) -> Result<(), Error> {
        match self {
            Self::Other(name, input) => {
                exec::call(args, name, command, &decode(input)?).map(|_| ())
            }
            _ => Ok(()),
        }
    }
}

fn allocate(conf: &HostLocal, args: &Args) -> Result<Success, Error> {
    // Read first: what fails before there is an address leaves none behind.
    let dns = match &conf.resolv_conf {
        None => Dns::default(),
        Some(path) => {
            let fail = |e| Error::new(code::IO_FAILURE, format!("read {}", path.display()), e);
            resolv::parse(&std::fs::read_to_string(path).map_err(fail)?)
        }
    };
    let choices = Ledger::open(conf)?.allocate(&args.attachment())?;
    Ok(Success {
        ips: choices.iter().map(Choice::ip).collect(),
        routes: conf.routes.clone(),
        dns,
        ..Success::default()
    })
}
