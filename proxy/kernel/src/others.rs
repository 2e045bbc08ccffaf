//! Tables of nftables that are not ours, as the `nft` program prints them: it knows all that may stand in them.

use keelson_proxy_plan::others::Table;
use keelson_proxy_plan::others::nft::{names, table};

use crate::Error;
use crate::iptables::{is_there, output};

const PROGRAM: &str = "nft";

/// Tables that `skipped` does not name, by their families (as nft names them) and names. `None`: the program is not
/// installed, and nothing is known of any table.
pub async fn tables(skipped: impl Fn(&str, &str) -> bool) -> Result<Option<Vec<Table>>, Error> {
    if !is_there(PROGRAM) {
        return Ok(None);
    }
    let listed = output(PROGRAM, &["--json", "list", "tables"]).await?;
    let mut found = Vec::new();
    for (family, name) in names(&listed).map_err(unread)? {
        if skipped(&family, &name) {
            continue;
        }
        let list = ["list", "table", family.as_str(), name.as_str()];
        let read = async |flags: &[&str]| output(PROGRAM, &[flags, &list].concat()).await;
        let json = read(&["--json", "--numeric"]).await?;
        let printed = read(&["--handle", "--stateless"]).await?;
        found.push(table(&json, &printed).map_err(unread)?);
    }
    Ok(Some(found))
}

fn unread(message: String) -> Error {
    Error::Refused {
        program: PROGRAM,
        message,
    }
}
