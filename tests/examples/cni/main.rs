//! `scripts/bench cni`: our plugin beside Debian's bridge, host-local and portmap, by turns in one run, each with a node
//! of its own: ADD and DEL one at a time and many at once, with and without masquerade and a host port. Then what pods
//! notice of the network: bytes a second and round trips over our bridge and between two nodes, beside a bare pair of
//! links. Ends with a line an aim.

mod calls;
mod traffic;

use clap::Parser;
use keelson_tests::figures::Aim;

use calls::{Kind, Lane, Pair};

/// keelson's CNI plugin beside Debian's.
#[derive(Parser)]
struct Flags {
    /// Calls of each kind, one at a time.
    #[arg(long, default_value_t = 60)]
    rounds: usize,
    /// Pods at once.
    #[arg(long, default_value_t = 16)]
    parallel: usize,
    /// ADD and DEL of each of them.
    #[arg(long, default_value_t = 8)]
    each: usize,
    /// Seconds that bytes are sent over each way.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let mut aims = Vec::new();
    for kind in Kind::ALL {
        let pair = Pair::new(kind, flags.parallel)?;
        let alone = pair.one_at_a_time(flags.rounds)?;
        println!("{}, one at a time", kind.name());
        for (lane, times) in Lane::BOTH.iter().zip(&alone) {
            println!("  {:<28} ADD {}", lane.name(), times.add);
            println!("  {:<28} DEL {}", "", times.del);
        }
        let [ours, theirs] = &alone;
        let ratio = ours.add.p50() / theirs.add.p50();
        aims.extend(
            kind.aim()
                .map(|(name, bound)| Aim::most(name, ratio, bound, "of Debian's p50")),
        );
        let rates = pair.at_once(flags.each)?;
        println!("{}, {} at once", kind.name(), flags.parallel);
        for (lane, rate) in Lane::BOTH.iter().zip(rates) {
            println!("  {:<28} {rate:.0} ADD and DEL a second", lane.name());
        }
        if kind == Kind::Plain {
            let times = rates[0] / rates[1];
            aims.push(Aim::least(
                "cni-parallel-rate",
                times,
                3.0,
                "times Debian's",
            ));
        }
    }
    println!("between two pods");
    for way in traffic::Way::ALL {
        println!("  {:<28} {}", way.name(), way.measure(flags.seconds)?);
    }
    for aim in aims {
        println!("{aim}");
    }
    Ok(())
}
