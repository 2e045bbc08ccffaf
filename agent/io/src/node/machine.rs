//! Where CPUs and memory are, read from sysfs: only needed by those that hand them out.

use std::collections::BTreeMap;
use std::path::Path;

use keelson_agent_plan::cpu_manager::{Machine, Place};
use keelson_agent_plan::cpuset::CpuSet;
use keelson_agent_plan::memory_manager::NodeMemory;
use keelson_agent_plan::topology::Numa;

use super::facts::{Error, HugePages, Roots, content, huge_pages, text};

/// CPUs, NUMA nodes and their memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Places of CPUs that are online.
    pub machine: Machine,
    /// NUMA nodes and the ways between them.
    pub numa: Numa,
    /// Memory by NUMA node.
    pub memory: BTreeMap<u32, NodeMemory>,
}

/// Reads the machine's layout. A kernel that knows no NUMA nodes has one, number 0.
pub fn layout(roots: &Roots) -> Result<Layout, Error> {
    let nodes = roots.sys.join("devices/system/node");
    let mut layout = match list(&nodes.join("online")) {
        Ok(online) => numa_nodes(&nodes, &online)?,
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            one_node(roots)?
        }
        Err(error) => return Err(error),
    };
    let cpus = roots.sys.join("devices/system/cpu");
    for cpu in list(&cpus.join("online"))?.iter() {
        let place = place(
            &cpus,
            *cpu,
            layout.machine.cpus.get(cpu).map_or(0, |p| p.node),
        )?;
        layout.machine.cpus.insert(*cpu, place);
    }
    Ok(layout)
}

fn list(path: &Path) -> Result<CpuSet, Error> {
    let text = text(path)?;
    CpuSet::parse(&text).ok_or_else(|| content(path, &text))
}

/// Nodes with their memory and ways; of their CPUs only the node is known after this.
fn numa_nodes(dir: &Path, online: &CpuSet) -> Result<Layout, Error> {
    let mut layout = Layout::default();
    let allowed: Vec<u32> = online.iter().copied().collect();
    for node in &allowed {
        let dir = dir.join(format!("node{node}"));
        let path = dir.join("distance");
        let ways = text(&path)?;
        let ways: Result<_, _> = ways.split_whitespace().map(str::parse).collect();
        let ways = ways.map_err(|_| content(&path, "not a list of numbers"))?;
        layout.numa.distances.insert(*node, ways);
        let path = dir.join("meminfo");
        let all = text(&path)?;
        let memory = mem_total(&all).ok_or_else(|| content(&path, "no MemTotal"))?;
        let huge = by_size(huge_pages(&dir.join("hugepages"))?);
        layout.memory.insert(*node, NodeMemory { memory, huge });
        for cpu in list(&dir.join("cpulist"))?.iter() {
            let place = Place {
                node: *node,
                ..Place::default()
            };
            layout.machine.cpus.insert(*cpu, place);
        }
    }
    Ok(layout)
}

fn one_node(roots: &Roots) -> Result<Layout, Error> {
    let path = roots.proc.join("meminfo");
    let memory = mem_total(&text(&path)?).ok_or_else(|| content(&path, "no MemTotal"))?;
    let huge = by_size(huge_pages(&roots.sys.join("kernel/mm/hugepages"))?);
    Ok(Layout {
        numa: Numa {
            distances: [(0, vec![10])].into(),
        },
        memory: [(0, NodeMemory { memory, huge })].into(),
        ..Layout::default()
    })
}

fn by_size(pages: Vec<HugePages>) -> BTreeMap<u64, u64> {
    pages.into_iter().map(|p| (p.size, p.total)).collect()
}

/// Bytes of the line `[Node N] MemTotal: 123 kB`.
fn mem_total(info: &str) -> Option<u64> {
    let line = info.lines().find_map(|l| l.split_once("MemTotal:"))?.1;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

fn place(cpus: &Path, cpu: u32, node: u32) -> Result<Place, Error> {
    let dir = cpus.join(format!("cpu{cpu}/topology"));
    let siblings = list(&dir.join("thread_siblings_list"))?;
    let path = dir.join("physical_package_id");
    let socket = text(&path)?;
    // Machines without sockets say -1.
    let socket: i64 = socket.parse().map_err(|_| content(&path, &socket))?;
    Ok(Place {
        core: siblings.first().copied().unwrap_or(cpu),
        socket: u32::try_from(socket).unwrap_or(0),
        node,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        fs::write(path, content).expect("file");
    }

    fn roots(dir: &Path) -> Roots {
        Roots {
            sys: dir.join("sys"),
            proc: dir.join("proc"),
            ..Roots::host("/")
        }
    }

    fn cpu(dir: &Path, cpu: u32, siblings: &str, socket: &str) {
        let at = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        file(dir, &format!("{at}/thread_siblings_list"), siblings);
        file(dir, &format!("{at}/physical_package_id"), socket);
    }

    #[test]
    fn two_sockets_with_threads() {
        let dir = tempfile::tempdir().expect("directory");
        let dir = dir.path();
        file(dir, "sys/devices/system/cpu/online", "0-3\n");
        for (n, siblings, socket) in [
            (0, "0,2", "0"),
            (1, "1,3", "1"),
            (2, "0,2", "0"),
            (3, "1,3", "1"),
        ] {
            cpu(dir, n, siblings, socket);
        }
        file(dir, "sys/devices/system/node/online", "0-1\n");
        for (n, list, distance) in [(0, "0,2", "10 21"), (1, "1,3", "21 10")] {
            let at = format!("sys/devices/system/node/node{n}");
            file(dir, &format!("{at}/cpulist"), list);
            file(dir, &format!("{at}/distance"), distance);
            file(
                dir,
                &format!("{at}/meminfo"),
                &format!("Node {n} MemTotal:  1024 kB\nNode {n} MemFree: 1 kB\n"),
            );
            file(
                dir,
                &format!("{at}/hugepages/hugepages-2048kB/nr_hugepages"),
                "3\n",
            );
        }
        let layout = layout(&roots(dir)).expect("layout");
        let place = |core, socket, node| Place { core, socket, node };
        let want = [
            (0, place(0, 0, 0)),
            (1, place(1, 1, 1)),
            (2, place(0, 0, 0)),
            (3, place(1, 1, 1)),
        ];
        assert_eq!(layout.machine.cpus, want.into());
        assert_eq!(layout.machine.per_core(), 2);
        assert_eq!(
            layout.numa.distances,
            [(0, vec![10, 21]), (1, vec![21, 10])].into()
        );
        let memory = NodeMemory {
            memory: 1 << 20,
            huge: [(2 << 20, 6 << 20)].into(),
        };
        assert_eq!(layout.memory, [(0, memory.clone()), (1, memory)].into());
    }

    #[test]
    fn a_kernel_without_numa() {
        let dir = tempfile::tempdir().expect("directory");
        let dir = dir.path();
        file(dir, "sys/devices/system/cpu/online", "0\n");
        file(dir, "proc/meminfo", "MemTotal: 2 kB\n");
        cpu(dir, 0, "0", "-1");
        let layout = layout(&roots(dir)).expect("layout");
        assert_eq!(layout.machine.cpus, [(0, Place::default())].into());
        assert_eq!((layout.numa.mask(), layout.memory[&0].memory), (1, 2048));
    }

    #[test]
    fn this_machine() {
        let layout = layout(&Roots::host("/")).expect("layout");
        let cpus = std::thread::available_parallelism().expect("cpus").get();
        assert!(layout.machine.cpus.len() >= cpus && !layout.memory.is_empty());
        let nodes: CpuSet = layout.memory.keys().copied().collect();
        assert_eq!(layout.numa.mask(), nodes.mask());
    }
}
