//! Type `ptp`: a container's link leads to the host and nowhere else; the host routes.

use ipnet::IpNet;
use keelson_cni_plan::config::{Ipam, NetConf, invalid};
use keelson_cni_plan::names;
use keelson_cni_plan::protocol::{Args, Error};
use keelson_cni_plan::ptp::{Ptp, container_routes, gateway, host_route};
use keelson_cni_plan::result::Success;
use serde_json::Value;

use crate::attach::{self, Attach, Inner, interface, routes};
use crate::errors::all_of;
use crate::ipam::Manager;
use crate::masquerade;
use crate::net::{Link, forward, sysctl};
use crate::steps::{self, Manner, Port, Step};
use crate::types::{Commands, carry_out};

/// A call, read.
struct Call<'a> {
    args: &'a Args,
    conf: &'a NetConf,
    options: Ptp,
    manager: Manager<'a>,
}

/// Runs a command; what is to be printed, if anything.
pub(crate) fn run(args: &Args, input: &[u8]) -> Result<Option<Value>, Error> {
    let conf = NetConf::parse(input)?;
    if conf.ipam() == Ipam::None {
        return Err(invalid("ipam", "a link of this type needs addresses"));
    }
    let call = Call {
        args,
        conf: &conf,
        options: Ptp::parse(input)?,
        manager: Manager::of(args, &conf, input)?,
    };
    carry_out(args.command, &call)
}

impl Commands for Call<'_> {
    fn add(&self) -> Result<Value, Error> {
        let (args, conf) = (self.args, self.conf);
        let mut attach = Attach::begin(args)?;
        let host = attach.pair(|netns, link| {
            let port = Port {
                name: link,
                alias: names::alias(&conf.name, &args.container, &args.ifname),
                hairpin: false,
                isolated: false,
            };
            let pair = attach::new_pair(args, netns, link, self.options.mtu);
            vec![steps::new_pair(&pair), steps::set_port(&port)]
        })?;
        // From here on there is something to undo; the first error is the one to tell.
        let made = self.connect(&mut attach, &host);
        if made.is_err() {
            let _ = self.del();
        }
        made.map(|s| s.render(conf.version()))
    }

    fn del(&self) -> Result<(), Error> {
        let (call, options) = ((self.args, self.conf), &self.options.masquerade);
        all_of(attach::detach(call, options, &self.manager))
    }

    fn gc(&self) -> Result<(), Error> {
        let backend = self.options.masquerade.backend()?;
        all_of(vec![
            attach::gc(self.conf),
            masquerade::gc(backend, &self.conf.name, self.conf.valid_attachments()?),
            self.manager.gc(self.args, self.conf).map(|_| ()),
        ])
    }

    fn check(&self) -> Result<(), Error> {
        let (args, conf) = (self.args, self.conf);
        let told = attach::previous(conf)?;
        self.manager.check(args, &told)?;
        let mut attach = Attach::begin(args)?;
        let inner = attach::check(&attach, &told, true)?;
        attach::check_host(&mut attach, &told, &inner)?;
        if self.options.masquerade.ip_masq {
            let backend = self.options.masquerade.backend()?;
            let addresses = told.addresses_of(&args.ifname);
            masquerade::check(backend, &conf.name, &attach.link, &addresses)?;
        }
        Ok(())
    }

    fn status(&self) -> Result<(), Error> {
        self.manager.status(self.args)
    }
}

impl Call<'_> {
    fn connect(&self, attach: &mut Attach<'_>, host: &Link) -> Result<Success, Error> {
        let (args, conf) = (self.args, self.conf);
        let mut success = self.manager.add(args, conf.version())?;
        for ip in &mut success.ips {
            // The host's end, the container's: the second has the addresses.
            (ip.interface, ip.gateway) = (Some(1), Some(gateway(ip)));
        }
        success.fill_gateways();
        self.host_end(attach, host, &success)?;
        let peer = host.peer.unwrap_or_default();
        let mut ways: Vec<Step> = Vec::new();
        for ip in &success.ips {
            let source = Some(ip.address.addr());
            ways.extend(
                container_routes(ip)
                    .iter()
                    .map(|r| steps::route(peer, r, source)),
            );
        }
        ways.extend(routes(&success, peer));
        let (inner, mut inside) = attach.configure(
            peer,
            Inner {
                ips: &success.ips,
                routes: ways,
                manner: Manner {
                    detect: false,
                    bare: true,
                },
            },
        )?;
        let addresses: Vec<IpNet> = success.ips.iter().map(|ip| ip.address).collect();
        if self.options.masquerade.ip_masq {
            let backend = self.options.masquerade.backend()?;
            masquerade::add(backend, &conf.name, &attach.link, &addresses)?;
        }
        let host = attach.working((&inner, &mut inside))?;
        success.interfaces = vec![
            interface(&attach.link, &host, None),
            interface(&args.ifname, &inner, attach.sandbox()),
        ];
        success.dns = conf.resolver(success.dns);
        Ok(success)
    }

    /// The gateways on the host's end, and the way to the container.
    fn host_end(
        &self,
        attach: &mut Attach<'_>,
        host: &Link,
        success: &Success,
    ) -> Result<(), Error> {
        sysctl(&format!("ipv6/conf/{}/accept_dad", attach.link), "0")?;
        let mut steps = Vec::new();
        for ip in &success.ips {
            let own = IpNet::from(gateway(ip));
            steps.push(steps::address(host.index, own, Manner::default()));
            steps.push(steps::replace_route(host.index, &host_route(ip)));
        }
        attach.host.carry_out(steps)?;
        success
            .ips
            .iter()
            .try_for_each(|ip| forward(ip.address.addr()))
    }
}
