//! Results and errors of plugins, in every version's shape. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::Error;

/// What ADD gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The pod's addresses, the preferred family first.
    pub ips: Vec<IpAddr>,
    /// The last plugin's result as it stands.
    pub result: Value,
}

/// Reads the addresses of the link `ifname` in the pod; addresses without a link are the pod's too.
pub(super) fn parse(network: &str, ifname: &str, result: Value) -> Result<Outcome, Error> {
    let bad = |why: String| Error::Result {
        network: network.to_owned(),
        why,
    };
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    let ours = |ip: &&Value| match ip.get("interface").and_then(Value::as_u64) {
        None => true,
        Some(i) => {
            let link = interfaces.and_then(|l| l.get(usize::try_from(i).ok()?));
            link.is_some_and(|l| {
                l.get("name").and_then(Value::as_str) == Some(ifname) && has_sandbox(l)
            })
        }
    };
    let all = result
        .get("ips")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut ips = Vec::new();
    for ip in all.iter().filter(ours) {
        let text = ip
            .get("address")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let net: IpNet = text
            .parse()
            .map_err(|_| bad(format!("invalid address {text:?}")))?;
        ips.push(net.addr());
    }
    if ips.is_empty() {
        return Err(bad(format!("no address for {ifname}")));
    }
    Ok(Outcome { ips, result })
}

fn has_sandbox(link: &Value) -> bool {
    link.get("sandbox")
        .and_then(Value::as_str)
        .is_some_and(|s| !s.is_empty())
}

/// A failed plugin's code and message: its error object, else what it wrote to standard error.
pub(super) fn failure(stdout: &[u8], stderr: &[u8]) -> (u32, String) {
    let text = |v: &Value, key: &str| {
        v.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    match serde_json::from_slice::<Value>(stdout) {
        Ok(v) if v.get("msg").is_some() => {
            let code = v
                .get("code")
                .and_then(Value::as_u64)
                .and_then(|c| u32::try_from(c).ok())
                .unwrap_or(0);
            let (message, details) = (text(&v, "msg"), text(&v, "details"));
            (
                code,
                if details.is_empty() {
                    message
                } else {
                    format!("{message}; {details}")
                },
            )
        }
        _ => {
            let said = if stderr.is_empty() { stdout } else { stderr };
            let said = String::from_utf8_lossy(said).trim().to_owned();
            (
                0,
                if said.is_empty() {
                    "netplugin failed with no error message".to_owned()
                } else {
                    said
                },
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_of_every_version() {
        let links =
            json!([{"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/ns"}]);
        let table = [
            (
                json!({"cniVersion": "0.3.1", "interfaces": links, "ips": [{"version": "4", "interface": 2, "address": "10.0.0.2/24"}]}),
                vec!["10.0.0.2"],
            ),
            (
                json!({"cniVersion": "1.1.0", "interfaces": links, "ips": [
                {"interface": 2, "address": "10.0.0.3/24"}, {"interface": 0, "address": "10.0.0.1/24"}, {"interface": 2, "address": "fd00::3/64"}]}),
                vec!["10.0.0.3", "fd00::3"],
            ),
            (
                json!({"ips": [{"address": "10.0.0.4/24"}]}),
                vec!["10.0.0.4"],
            ),
        ];
        for (result, want) in table {
            let got = parse("n", "eth0", result).expect("outcome");
            assert_eq!(
                got.ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
                want
            );
        }
        for bad in [
            json!({}),
            json!({"ips": [{"address": "x"}]}),
            json!({"interfaces": links, "ips": [{"interface": 9, "address": "10.0.0.1/24"}]}),
        ] {
            assert!(parse("n", "eth0", bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn failures() {
        type Case = (&'static [u8], &'static [u8], (u32, &'static str));
        let table: [Case; 4] = [
            (
                br#"{"code":7,"msg":"no","details":"really"}"#,
                b"x",
                (7, "no; really"),
            ),
            (br#"{"code":11,"msg":"again"}"#, b"", (11, "again")),
            (b"", b"panic: x\n", (0, "panic: x")),
            (b"", b"", (0, "netplugin failed with no error message")),
        ];
        for (out, err, (code, message)) in table {
            assert_eq!(failure(out, err), (code, message.to_owned()));
        }
    }
}
