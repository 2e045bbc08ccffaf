//! An API server alone, for trying clients: `apiserver DIR PORT` keeps everything below DIR and writes
//! DIR/admin.kubeconfig.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keelson_apiserver::{ApiServer, Config};
use keelson_auth::kubeconfig::{self, Credentials};
use keelson_auth::pki::Pki;
use keelson_store::embedded::{Embedded, Options};
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("usage: apiserver DIR [PORT]")?);
    let port: u16 = args.next().unwrap_or_else(|| "6443".to_owned()).parse()?;
    std::fs::create_dir_all(&dir)?;
    let pki = Arc::new(Pki::load_or_create(&dir.join("pki"))?);
    let store = Arc::new(Embedded::open(&dir.join("store.redb"), Options::default())?);
    let config = Config {
        bind: ([127, 0, 0, 1], port).into(),
        pki_dir: dir.join("pki"),
        ..Config::default()
    };
    let server = ApiServer::start(config, store, pki.clone()).await?;
    let admin = pki.issue_client("admin", &["system:masters"], Duration::from_secs(86_400))?;
    let credentials = Credentials::Certificate {
        cert_pem: &admin.cert_pem,
        key_pem: &admin.key_pem,
    };
    let url = format!("https://127.0.0.1:{port}");
    std::fs::write(
        dir.join("admin.kubeconfig"),
        kubeconfig::render("keelson", &url, pki.ca_pem(), credentials),
    )?;
    println!("serving on {url}");
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    server.serve(shutdown).await?;
    Ok(())
}
