//! Type `bridge`: containers' links are ports of a bridge on the host. ADD undoes what it did when a step fails; DEL
//! and GC go on after errors.

use ipnet::IpNet;
use keelson_cni_plan::bridge::{Bridge, gateway_change};
use keelson_cni_plan::config::{Ipam, NetConf, mac_bytes};
use keelson_cni_plan::names;
use keelson_cni_plan::protocol::{Args, Command, Error, code};
use keelson_cni_plan::result::{Interface, Success};
use netlink_packet_route::link::InfoKind;
use serde_json::Value;

use crate::attach::{self, Attach, Inner, interface, routes, wrong};
use crate::errors::all_of;
use crate::ipam::Manager;
use crate::net::{Link, Net, forward, sysctl};
use crate::steps::{self, Manner, NewBridge, NewPair, Port, Step};
use crate::types::{Commands, carry_out};
use crate::{masquerade, ports, spoof};

/// A call, read.
struct Call<'a> {
    args: &'a Args,
    conf: &'a NetConf,
    options: Bridge,
    manager: Manager<'a>,
}

/// Runs a command; what is to be printed, if anything.
pub(crate) fn run(args: &Args, input: &[u8]) -> Result<Option<Value>, Error> {
    let conf = NetConf::parse(input)?;
    let call = Call {
        args,
        conf: &conf,
        options: Bridge::parse(input, conf.ipam() != Ipam::None)?,
        manager: Manager::of(args, &conf, input)?,
    };
    carry_out(args.command, &call)
}

impl Commands for Call<'_> {
    fn add(&self) -> Result<Value, Error> {
        let mut attach = Attach::begin(self.args)?;
        let bridge = self.bridge(&mut attach.host)?;
        let port = self.port(&mut attach, &bridge)?;
        // From here on there is something to undo; the first error is the one to tell.
        let made = self.connect(&mut attach, bridge, &port);
        let made = made
            .map(|s| s.render(self.conf.version()))
            .and_then(|result| {
                ports::delegate(self.args, self.conf, Command::Add, Some(&result)).map(|()| result)
            });
        if made.is_err() {
            let _ = self.del();
        }
        made
    }

    fn del(&self) -> Result<(), Error> {
        let (args, conf, options) = (self.args, self.conf, &self.options);
        let ports = ports::delegate(args, conf, Command::Del, conf.prev_result.as_ref());
        let mut done = attach::detach((args, conf), &options.masquerade, &self.manager);
        done.push(ports);
        if options.macspoofchk {
            done.push(spoof::remove(&names::host_link(
                &args.container,
                &args.ifname,
            )));
        }
        all_of(done)
    }

    /// Frees what attachments have that are not valid any more.
    fn gc(&self) -> Result<(), Error> {
        let (conf, backend) = (self.conf, self.options.masquerade.backend()?);
        let valid = conf.valid_attachments()?;
        all_of(vec![
            attach::gc(conf),
            masquerade::gc(backend, &conf.name, valid),
            spoof::gc(&conf.name, valid),
            ports::delegate(self.args, conf, Command::Gc, None),
            self.manager.gc(self.args, conf).map(|_| ()),
        ])
    }

    fn check(&self) -> Result<(), Error> {
        let (args, conf, options) = (self.args, self.conf, &self.options);
        let told = attach::previous(conf)?;
        self.manager.check(args, &told)?;
        let mut attach = Attach::begin(args)?;
        let bridge = attach::on_host(&mut attach.host, &told, &options.bridge)?;
        if bridge.kind != Some(InfoKind::Bridge)
            || !bridge.up
            || bridge.promisc != options.promisc_mode
        {
            let why = format!(
                "bridge {} is down, or not in the mode that is wanted",
                options.bridge
            );
            return Err(wrong(why));
        }
        let inner = attach::check(&attach, &told, !options.disable_container_interface)?;
        let port = attach::check_host(&mut attach, &told, &inner)?;
        if port.controller != Some(bridge.index) {
            return Err(wrong(format!(
                "link {} is no port of {}",
                attach.link, options.bridge
            )));
        }
        let addresses = told.addresses_of(&args.ifname);
        if options.masquerade.ip_masq {
            let backend = options.masquerade.backend()?;
            masquerade::check(backend, &conf.name, &attach.link, &addresses)?;
        }
        if options.macspoofchk {
            spoof::check(&attach.link)?;
        }
        ports::delegate(args, conf, Command::Check, conf.prev_result.as_ref())
    }

    fn status(&self) -> Result<(), Error> {
        self.manager.status(self.args)
    }
}

impl Call<'_> {
    /// The bridge, made if it is not there.
    fn bridge(&self, host: &mut Net) -> Result<Link, Error> {
        let (options, name) = (&self.options, self.options.bridge.as_str());
        let found = host.link(name)?;
        let fits = |l: &Link| {
            l.up && (l.promisc || !options.promisc_mode)
                && (l.filters_vlans || !options.filters_vlans())
        };
        if let Some(link) = found.as_ref().filter(|l| l.kind != Some(InfoKind::Bridge)) {
            let why = format!("{name:?} is there and is no bridge (link {})", link.index);
            return Err(Error::new(code::INVALID_CONFIG, "invalid bridge", why));
        }
        if let Some(link) = found.as_ref().filter(|l| fits(l)) {
            return Ok(link.clone());
        }
        let vlans = options.filters_vlans();
        if found.is_none() {
            host.carry_out(vec![steps::new_bridge(&NewBridge {
                name,
                mac: names::bridge_mac(name, &self.place()),
                mtu: options.mtu,
                vlans,
            })])?;
        }
        // Addresses on the bridge are used at once, its routes are ours: nobody on it is to advertise others.
        for (key, value) in [("accept_dad", "0"), ("accept_ra", "0")] {
            sysctl(&format!("ipv6/conf/{name}/{key}"), value)?;
        }
        let alter = vlans && found.is_none_or(|l| !l.filters_vlans);
        host.carry_out(vec![steps::raise_bridge(name, options.promisc_mode, alter)])?;
        host.must(name)
    }

    /// What tells this node's bridge from the one of the same name on another: its addresses, else the machine.
    fn place(&self) -> String {
        match &self.manager {
            Manager::Own(own) => own.sets[0][0].gateway().to_string(),
            _ => std::fs::read_to_string("/etc/machine-id").unwrap_or_default(),
        }
    }

    /// The pair, its host's end a port of the bridge.
    fn port(&self, attach: &mut Attach<'_>, bridge: &Link) -> Result<Link, Error> {
        let (args, options) = (self.args, &self.options);
        let mac = self.conf.mac(args.extra.mac.as_ref())?;
        let mac = mac.as_deref().and_then(mac_bytes);
        let port = attach.pair(|netns, link| {
            let pair = attach::new_pair(args, netns, link, options.mtu);
            let pair = NewPair {
                mac,
                bridge: Some(bridge.index),
                ..pair
            };
            let port = Port {
                name: link,
                alias: names::alias(&self.conf.name, &args.container, &args.ifname),
                hairpin: options.hairpin_mode,
                isolated: options.port_isolation,
            };
            vec![
                steps::new_pair(&pair),
                steps::set_port(&port),
                steps::no_address(link),
            ]
        })?;
        attach
            .host
            .carry_out(self.vlans(port.index, options.vlan)?)?;
        Ok(port)
    }

    /// Puts a port into VLANs.
    fn vlans(&self, port: u32, untagged: u16) -> Result<Vec<Step>, Error> {
        let (options, mut all) = (&self.options, Vec::new());
        if !options.keeps_default_vlan() {
            all.push(steps::leave_default_vlan(port));
        }
        if untagged != 0 {
            all.push(steps::port_vlans(port, true, [untagged]));
        }
        let trunk = options.trunk()?;
        if !trunk.is_empty() {
            all.push(steps::port_vlans(port, false, trunk));
        }
        Ok(all)
    }

    /// Addresses, routes, gateways and rules.
    fn connect(
        &self,
        attach: &mut Attach<'_>,
        bridge: Link,
        port: &Link,
    ) -> Result<Success, Error> {
        let (args, options, name) = (self.args, &self.options, &self.options.bridge);
        let mut success = self.manager.add(args, self.conf.version())?;
        options.complete(&mut success);
        // The bridge, the host's end, the container's: the third has the addresses.
        for ip in &mut success.ips {
            ip.interface = Some(2);
        }
        let peer = port.peer.unwrap_or_default();
        let (inner, mut inside) = match options.disable_container_interface {
            true => {
                let mut inside = Net::inside(&attach.netns)?;
                (inside.must(&args.ifname)?, inside)
            }
            false => attach.configure(peer, inner(options, &success, peer))?,
        };
        let vlan = self.gateways(&mut attach.host, &bridge, &success)?;
        let addresses: Vec<IpNet> = success.ips.iter().map(|ip| ip.address).collect();
        if options.masquerade.ip_masq {
            let backend = options.masquerade.backend()?;
            masquerade::add(backend, &self.conf.name, &attach.link, &addresses)?;
        }
        if options.macspoofchk {
            spoof::add(&self.conf.name, &attach.link, &inner.mac)?;
        }
        let port = match options.disable_container_interface {
            true => port.clone(),
            false => attach.working((&inner, &mut inside))?,
        };
        success.interfaces = vec![
            interface(name, &bridge, None),
            interface(&attach.link, &port, None),
            interface(&args.ifname, &inner, attach.sandbox()),
        ];
        success.interfaces.extend(vlan);
        success.dns = self.conf.resolver(success.dns);
        Ok(success)
    }

    /// The gateways' addresses on the bridge, or on the link into its VLAN, which is given.
    fn gateways(
        &self,
        host: &mut Net,
        bridge: &Link,
        success: &Success,
    ) -> Result<Option<Interface>, Error> {
        let options = &self.options;
        if !options.is_gateway || success.ips.is_empty() {
            return Ok(None);
        }
        let vlan = match options.vlan {
            0 => None,
            _ => Some(self.vlan_link(host, bridge)?),
        };
        let link = vlan.as_ref().unwrap_or(bridge);
        let mut have: Vec<IpNet> = host
            .addresses(link.index)?
            .iter()
            .filter(|a| !a.local)
            .map(|a| a.net)
            .collect();
        let mut steps = Vec::new();
        for ip in &success.ips {
            let Some(gateway) = ip.gateway else { continue };
            let want = IpNet::new(gateway, ip.address.prefix_len()).unwrap_or(ip.address);
            let (remove, add) = gateway_change(&link.name, &have, want, options.force_address)?;
            have.retain(|a| !remove.contains(a));
            steps.extend(
                remove
                    .into_iter()
                    .map(|a| steps::remove_address(link.index, a)),
            );
            if add {
                steps.push(steps::address(link.index, want, Manner::default()));
                have.push(want);
            }
        }
        if let (false, Ok(mac)) = (steps.is_empty(), <[u8; 6]>::try_from(link.mac.as_slice())) {
            steps.push(steps::keep_mac(&link.name, mac));
        }
        host.carry_out(steps)?;
        success
            .ips
            .iter()
            .try_for_each(|ip| forward(ip.address.addr()))?;
        Ok(vlan.map(|l| interface(&l.name, &l, None)))
    }

    /// The link into a VLAN of the bridge, made if it is not there: a pair, as with the reference, since not all
    /// kernels have VLAN links.
    fn vlan_link(&self, host: &mut Net, bridge: &Link) -> Result<Link, Error> {
        let options = &self.options;
        let name = options.vlan_link()?;
        if let Some(link) = host.link(&name)?.filter(|l| l.up) {
            return Ok(link);
        }
        let port = names::vlan_port(&options.bridge, options.vlan);
        let mut pair = steps::new_pair(&NewPair {
            host: &port,
            peer: &name,
            netns: None,
            mac: None,
            mtu: options.mtu,
            bridge: Some(bridge.index),
        });
        // Another call may have been first.
        pair.fine = &[nix::libc::EEXIST];
        host.carry_out(vec![pair])?;
        sysctl(&format!("ipv6/conf/{name}/accept_dad"), "0")?;
        let index = host.must(&port)?.index;
        let mut steps = Vec::new();
        if !options.keeps_default_vlan() {
            steps.push(steps::leave_default_vlan(index));
        }
        steps.push(steps::port_vlans(index, true, [options.vlan]));
        steps.push(steps::up(&name));
        host.carry_out(steps)?;
        host.must(&name)
    }
}

fn inner<'a>(options: &Bridge, success: &'a Success, link: u32) -> Inner<'a> {
    Inner {
        ips: &success.ips,
        routes: routes(success, link),
        manner: Manner {
            detect: options.enabledad,
            bare: false,
        },
    }
}
