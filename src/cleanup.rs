//! `keelson cleanup`: what a node leaves behind on purpose (so that a restart interrupts nothing), taken away.
//! Every step is tried; errors are told together at the end.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::bail;

use crate::node::{self, Paths};
use crate::options::{self, NodeOptions};
use crate::plugins;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Removes the cluster's data and certificates too.
    #[arg(long)]
    data: bool,
    /// Removes the images too that keelson brought into containerd.
    #[arg(long)]
    images: bool,
    #[command(flatten)]
    node: NodeOptions,
}

/// Ends pods and removes rules, routes, links, mounts, cgroups and files.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut errors: Vec<String> = Vec::new();
    let options = options::of_node(&args.node).unwrap_or_else(|error| {
        errors.push(format!("{error:#}"));
        args.node.clone()
    });
    let paths = Paths::of(&options);
    let config = node::places(&options, "cleanup", Vec::new());
    let bridge = config
        .cni_bridge
        .clone()
        .unwrap_or_else(|| "keelson0".into());
    errors.extend(
        keelson_agent::cleanup(config.clone(), args.images)
            .await
            .iter()
            .map(|e| format!("{e:#}")),
    );
    errors.extend(
        keelson_proxy::cleanup()
            .await
            .iter()
            .map(ToString::to_string),
    );
    errors.extend(
        keelson_overlay::cleanup(&bridge)
            .await
            .iter()
            .map(ToString::to_string),
    );
    let dirs = config.cni_bin_dirs.first().into_iter();
    errors.extend(
        dirs.flat_map(|d| plugins::files(d))
            .filter_map(|p| remove(&p)),
    );
    if args.data {
        // What is mounted into pods belongs to others: an NFS export must not be emptied.
        match still_mounted(&config.root_dir) {
            Some(point) => errors.push(format!(
                "remove {}: {point} is still mounted",
                paths.data.display()
            )),
            None => errors.extend(remove(&paths.data)),
        }
        errors.extend(remove(&paths.run));
    }
    if errors.is_empty() {
        return Ok(());
    }
    bail!("not all could be removed:\n  {}", errors.join("\n  "));
}

/// The first mount below a directory.
fn still_mounted(dir: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points = mounts.lines().filter_map(|l| l.split(' ').nth(4));
    points
        .find(|p| Path::new(p).starts_with(dir) && Path::new(p) != dir)
        .map(str::to_owned)
}

fn remove(path: &Path) -> Option<String> {
    let done = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match done {
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        // A disk of its own is mounted there: its content is gone, the mount is not ours.
        Err(e) if e.kind() == ErrorKind::ResourceBusy && is_empty(path) => None,
        Err(e) => Some(format!("remove {}: {e}", path.display())),
        Ok(()) => None,
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}
