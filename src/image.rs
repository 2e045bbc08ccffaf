//! `keelson image`: an OCI archive of some files, for images that need no registry and no other tool.

use std::path::PathBuf;

use anyhow::Context;
use keelson_runtime::ImageConfig;
use keelson_runtime::archive::{self, Entry};

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image's name, such as example/echo:1.
    #[arg(long)]
    name: String,
    /// Files, as HOST-PATH=IMAGE-PATH; all are executable.
    #[arg(long = "file", required = true)]
    files: Vec<String>,
    /// Links, as IMAGE-PATH=TARGET.
    #[arg(long = "link")]
    links: Vec<String>,
    /// What the image runs: given once for the program and once more for each argument.
    #[arg(long, allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// The archive to write.
    #[arg(long)]
    output: PathBuf,
}

/// Writes the archive.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let pair = |text: &String| {
        let (a, b) = text
            .split_once('=')
            .with_context(|| format!("{text:?}: needed is A=B"))?;
        anyhow::Ok((a.to_owned(), b.to_owned()))
    };
    let mut entries = Vec::new();
    for file in &args.files {
        let (from, to) = pair(file)?;
        entries.push(Entry::Copy {
            from: from.into(),
            to,
            mode: 0o755,
        });
    }
    for link in &args.links {
        let (to, target) = pair(link)?;
        entries.push(Entry::Link { target, to });
    }
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let config = ImageConfig {
        entrypoint: args.entrypoint.clone(),
        env: vec![path.into()],
        ..ImageConfig::default()
    };
    archive::write(&args.output, &args.name, &entries, &config)?;
    println!("{} {}", args.name, args.output.display());
    Ok(())
}
