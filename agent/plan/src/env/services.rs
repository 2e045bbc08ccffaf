//! Variables of services: `{NAME}_SERVICE_HOST`, `{NAME}_SERVICE_PORT` and the older link style.
//! Source: "Discovering services: environment variables".

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// Names and values.
pub type ServiceEnv = Vec<(String, String)>;

/// The variables a pod of `namespace` gets from `services`: always those of the API server's own service,
/// and with `links` those of its own namespace. Services without a cluster IP give none.
pub fn service_env<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> ServiceEnv {
    let mut chosen: Vec<(&str, &str, &Service)> = Vec::new();
    for s in services {
        let name = s.metadata.name.as_deref().unwrap_or_default();
        let of = s.metadata.namespace.as_deref().unwrap_or_default();
        let ip = s
            .spec
            .as_ref()
            .and_then(|s| s.cluster_ip.as_deref())
            .unwrap_or_default();
        let master = of == "default" && name == "kubernetes";
        if matches!(ip, "" | "None") || !(master || links && of == namespace) {
            continue;
        }
        // A pod's own namespace may have a service of that name as well: it wins.
        chosen.retain(|(n, o, _)| *n != name || *o == namespace);
        if !chosen.iter().any(|(n, _, _)| *n == name) {
            chosen.push((name, of, s));
        }
    }
    chosen.sort_by_key(|(name, ..)| *name);
    chosen
        .into_iter()
        .flat_map(|(name, _, s)| one(name, s))
        .collect()
}

fn upper(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn one(name: &str, service: &Service) -> ServiceEnv {
    let name = upper(name);
    let spec = service.spec.as_ref();
    let ip = spec.and_then(|s| s.cluster_ip.clone()).unwrap_or_default();
    let ports: &[ServicePort] = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let mut env = vec![(format!("{name}_SERVICE_HOST"), ip.clone())];
    if let Some(first) = ports.first() {
        env.push((format!("{name}_SERVICE_PORT"), first.port.to_string()));
    }
    for p in ports {
        if let Some(port_name) = p.name.as_deref().filter(|n| !n.is_empty()) {
            env.push((
                format!("{name}_SERVICE_PORT_{}", upper(port_name)),
                p.port.to_string(),
            ));
        }
    }
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.clone()
    };
    for (i, p) in ports.iter().enumerate() {
        let protocol = p.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{}", p.port);
        if i == 0 {
            env.push((format!("{name}_PORT"), url.clone()));
        }
        let prefix = format!("{name}_PORT_{}_{}", p.port, protocol.to_uppercase());
        env.push((prefix.clone(), url));
        env.push((format!("{prefix}_PROTO"), lower));
        env.push((format!("{prefix}_PORT"), p.port.to_string()));
        env.push((format!("{prefix}_ADDR"), ip.clone()));
    }
    env
}
