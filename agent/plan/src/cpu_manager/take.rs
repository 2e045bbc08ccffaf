//! Choosing CPUs: what belongs together is taken together, and what is left stays as whole as it can.

use super::machine::{Level, Machine};
use crate::cpuset::CpuSet;

/// Takes so many of the free CPUs: whole sockets and NUMA nodes first (the larger before the smaller), then whole
/// cores, then threads; of what is of a kind the fullest, so that empty ones stay empty.
pub(super) fn packed(machine: &Machine, free: &CpuSet, count: usize) -> Result<CpuSet, String> {
    if count > free.len() {
        return Err(too_few(count, free.len()));
    }
    let levels = levels(machine);
    let (mut free, mut taken) = (free.clone(), CpuSet::default());
    for depth in 1..=levels.len() {
        let (above, level) = (&levels[..depth], levels[depth - 1]);
        for unit in in_order(machine, above, &free) {
            let (all, here) = (
                whole(machine, level, unit),
                machine.within(level, unit, &free),
            );
            if here.len() == all && all <= count - taken.len() {
                free = &free - &here;
                taken = &taken | &here;
            }
        }
    }
    for core in in_order(machine, &levels, &free) {
        let here = machine.within(Level::Core, core, &free);
        let lacks = count - taken.len();
        taken.extend(here.iter().take(lacks));
    }
    Ok(taken)
}

pub(super) fn too_few(count: usize, free: usize) -> String {
    format!("not enough cpus available to satisfy request: requested={count}, available={free}")
}

/// From the widest unit to the core.
pub(super) fn levels(machine: &Machine) -> [Level; 3] {
    match machine.count(Level::Socket) >= machine.count(Level::Node) {
        true => [Level::Node, Level::Socket, Level::Core],
        false => [Level::Socket, Level::Node, Level::Core],
    }
}

/// CPUs of one unit.
fn whole(machine: &Machine, level: Level, unit: u32) -> usize {
    machine.where_(|p| level.of(p) == unit).len()
}

/// Units of the last level with free CPUs: within each wider unit the one with the fewest free CPUs first, then by number.
pub(super) fn in_order(machine: &Machine, levels: &[Level], free: &CpuSet) -> Vec<u32> {
    let Some((level, below)) = levels.split_first() else {
        return Vec::new();
    };
    let units = machine.units(*level, free);
    let mut units: Vec<(usize, u32, CpuSet)> = (units.iter())
        .map(|unit| machine.within(*level, *unit, free))
        .zip(units.iter())
        .map(|(cpus, unit)| (cpus.len(), *unit, cpus))
        .collect();
    units.sort();
    match below.is_empty() {
        true => units.into_iter().map(|(_, unit, _)| unit).collect(),
        false => {
            let inner = units
                .iter()
                .map(|(_, _, cpus)| in_order(machine, below, cpus));
            inner.flatten().collect()
        }
    }
}
