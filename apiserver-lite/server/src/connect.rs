//! Subresources that lead to a node's agent, or behind it to a pod: logs, exec, attach, port-forward, proxy.
//!
//! The request goes on over a connection of its own. When the other side switches protocols (WebSocket or
//! SPDY) the two connections are joined byte by byte; the runtime's copy waits for the slower side.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Body;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use hyper_util::rt::TokioIo;
use keelson_admission::Operation;
use keelson_api::Status;
use keelson_api::resource::Sub;
use rand::Rng;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::handler::{Ctx, get, list, write};
use crate::object::{self, text};
use crate::query::Query;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// The agent's port when the node does not say.
const AGENT_PORT: u16 = 10250;
/// The annotation that names the container commands go to.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Headers that belong to one connection, not to the request.
const HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::PROXY_AUTHORIZATION,
];

/// Makes connections to agents, as the API server's own client certificate lets it.
pub(crate) struct Dialer {
    tls: RwLock<Arc<rustls::ClientConfig>>,
}

/// Where a request goes.
#[derive(Debug)]
struct Target {
    address: SocketAddr,
    /// The name the certificate must be for; `None`: no TLS.
    tls: Option<IpAddr>,
    /// Path and query.
    path: String,
}

impl Dialer {
    /// A dialer with this identity. HTTP/1.1 only: upgrades need it.
    pub(crate) fn new(config: &rustls::ClientConfig) -> Dialer {
        Dialer {
            tls: RwLock::new(plain(config)),
        }
    }

    /// Has another identity from now on. The whole configuration is another: a resumed session would keep the old one.
    pub(crate) fn set(&self, config: &rustls::ClientConfig) {
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = plain(config);
    }

    fn tls(&self) -> Arc<rustls::ClientConfig> {
        self.tls
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn plain(config: &rustls::ClientConfig) -> Arc<rustls::ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Passes a request on.
pub(crate) async fn run(
    ctx: &Ctx,
    sub: Sub,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (_, object) = get::load(
        &ctx.server,
        &ctx.row,
        &ctx.info.namespace,
        &base_name(ctx, sub),
    )
    .await?;
    write::validate(
        ctx,
        Operation::Connect,
        sub.name(),
        &ctx.info.name,
        Some(&object),
        &Value::Null,
    )
    .await?;
    let target = match (sub, &*ctx.row.plural) {
        (Sub::Proxy, "nodes") => node_proxy(ctx, &object)?,
        (Sub::Proxy, "services") => service_proxy(ctx, &object).await?,
        (Sub::Proxy, _) => pod_proxy(ctx, &object)?,
        _ => agent(ctx, sub, &object).await?,
    };
    forward(ctx, target, request).await
}

/// The object's name without scheme and port (`https:name:port`), which proxies may have.
fn base_name(ctx: &Ctx, sub: Sub) -> String {
    if sub == Sub::Proxy {
        split_name(&ctx.info.name).1.to_owned()
    } else {
        ctx.info.name.clone()
    }
}

/// Scheme, name and port of `[scheme:]name[:port]`.
fn split_name(name: &str) -> (&str, &str, &str) {
    match name.split(':').collect::<Vec<_>>().as_slice() {
        [scheme, name, port] => (scheme, name, port),
        [name, port] => ("", name, port),
        _ => ("", name, ""),
    }
}

async fn agent(ctx: &Ctx, sub: Sub, pod: &Value) -> Result<Target, Status> {
    let (ns, name) = (ctx.info.namespace.as_str(), ctx.info.name.as_str());
    let node = text(pod, "/spec/nodeName");
    if node.is_empty() {
        return Err(Status::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    let row = ctx.server.row("", "v1", "nodes")?;
    let (_, node) = get::load(&ctx.server, &row, "", node).await?;
    let verb = match sub {
        Sub::Log => "containerLogs",
        Sub::Exec => "exec",
        Sub::Attach => "attach",
        _ => "portForward",
    };
    let mut path = format!("/{verb}/{ns}/{name}");
    if sub != Sub::PortForward {
        path += &format!("/{}", container(pod, &ctx.query)?);
    }
    path += &format!("?{}", agent_query(sub, &ctx.query));
    let address = agent_address(&node)?;
    Ok(Target {
        address,
        tls: Some(address.ip()),
        path,
    })
}

/// The query as the agent reads it: of exec and attach the streams are `input`, `output`, `error`.
fn agent_query(sub: Sub, query: &Query) -> String {
    if !matches!(sub, Sub::Exec | Sub::Attach) {
        return query.raw().to_owned();
    }
    let mut pairs: Vec<String> = query
        .all("command")
        .map(|c| format!("command={}", encode(c)))
        .collect();
    for (from, to) in [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ] {
        if query.flag(from) {
            pairs.push(format!("{to}=1"));
        }
    }
    pairs.join("&")
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            out += &format!("%{b:02X}");
        }
    }
    out
}

/// The container that is meant: named, annotated as the default, or the only one.
fn container(pod: &Value, query: &Query) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        let list = object::items(pod, &format!("/spec/{list}"));
        list.iter().map(|c| text(c, "/name").to_owned()).collect()
    };
    let (main, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    let all = || main.iter().chain(&init).chain(&ephemeral);
    let pod_name = object::name(pod);
    if let Some(asked) = query.get("container") {
        let found = all().any(|n| n == asked);
        let refusal =
            || Status::bad_request(format!("container {asked} is not valid for pod {pod_name}"));
        return found.then(|| asked.to_owned()).ok_or_else(refusal);
    }
    let annotations = pod
        .pointer("/metadata/annotations")
        .and_then(|a| a.get(DEFAULT_CONTAINER));
    if let Some(name) = annotations
        .and_then(Value::as_str)
        .filter(|n| main.iter().any(|m| m == n))
    {
        return Ok(name.to_owned());
    }
    match main.as_slice() {
        [only] if init.is_empty() && ephemeral.is_empty() => Ok(only.clone()),
        [only] => Ok(only.clone()),
        _ => {
            let mut why = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                main.join(" ")
            );
            if !init.is_empty() {
                why += &format!(" or one of the init containers: [{}]", init.join(" "));
            }
            Err(Status::bad_request(why))
        }
    }
}

fn agent_address(node: &Value) -> Result<SocketAddr, Status> {
    let addresses = object::items(node, "/status/addresses");
    let of_type = |kind: &str| {
        let mut found = addresses.iter().filter(|a| text(a, "/type") == kind);
        found.find_map(|a| text(a, "/address").parse::<IpAddr>().ok())
    };
    let ip = of_type("InternalIP").or_else(|| of_type("ExternalIP"));
    let port = node
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64);
    let port = port
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .unwrap_or(AGENT_PORT);
    let ip = ip.ok_or_else(|| {
        Status::internal(format!(
            "no preferred addresses found for node {:?}",
            object::name(node)
        ))
    })?;
    Ok(SocketAddr::new(ip, port))
}

/// Asks a node's agent; the answer may have at most `limit` bytes.
pub(crate) async fn ask(
    dialer: &Dialer,
    node: &Value,
    path: &str,
    limit: usize,
) -> Result<Vec<u8>, String> {
    let address = agent_address(node).map_err(|status| status.message)?;
    let target = Target {
        address,
        tls: Some(address.ip()),
        path: path.to_owned(),
    };
    let host = address.to_string();
    let request = Request::get(path).header(header::HOST, host);
    let request = request.body(Body::empty()).map_err(|e| e.to_string())?;
    let response = send(dialer, &target, request).await?;
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), limit);
    let body = http_body_util::BodyExt::collect(body)
        .await
        .map_err(|e| e.to_string())?;
    match status {
        StatusCode::OK => Ok(body.to_bytes().to_vec()),
        other => Err(format!("the agent answered {other}")),
    }
}

fn tail(ctx: &Ctx) -> String {
    let path: Vec<String> = ctx.info.tail.split('/').map(encode).collect();
    let query = ctx.query.raw();
    format!(
        "/{}{}{query}",
        path.join("/"),
        if query.is_empty() { "" } else { "?" }
    )
}

fn node_proxy(ctx: &Ctx, node: &Value) -> Result<Target, Status> {
    let mut address = agent_address(node)?;
    let port = split_name(&ctx.info.name).2;
    if !port.is_empty() {
        let wrong = |_| Status::bad_request(format!("invalid port {port:?}"));
        address.set_port(port.parse().map_err(wrong)?);
    }
    Ok(Target {
        address,
        tls: Some(address.ip()),
        path: tail(ctx),
    })
}

/// Targets behind a proxy must be pods': the API server is no way into the node or the machine itself.
fn allowed(ip: IpAddr) -> Result<IpAddr, Status> {
    let local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || local {
        return Err(Status::bad_request(format!("address not allowed: {ip}")));
    }
    Ok(ip)
}

fn plain_http(scheme: &str) -> Result<(), Status> {
    match scheme {
        "" | "http" => Ok(()),
        other => Err(Status::bad_request(format!(
            "a proxy to {other} is not supported, only http"
        ))),
    }
}

fn pod_proxy(ctx: &Ctx, pod: &Value) -> Result<Target, Status> {
    let (scheme, _, port) = split_name(&ctx.info.name);
    plain_http(scheme)?;
    let ip = text(pod, "/status/podIP").parse::<IpAddr>();
    let ip =
        ip.map_err(|_| Status::bad_request(format!("pod {} has no address", object::name(pod))))?;
    let first = pod
        .pointer("/spec/containers/0/ports/0/containerPort")
        .and_then(Value::as_u64);
    let port = if port.is_empty() {
        first.and_then(|p| u16::try_from(p).ok()).unwrap_or(80)
    } else {
        number(port)?
    };
    Ok(Target {
        address: SocketAddr::new(allowed(ip)?, port),
        tls: None,
        path: tail(ctx),
    })
}

fn number(port: &str) -> Result<u16, Status> {
    port.parse()
        .map_err(|_| Status::bad_request(format!("invalid port {port:?}")))
}

/// A random ready endpoint of a Service's port.
async fn service_proxy(ctx: &Ctx, service: &Value) -> Result<Target, Status> {
    let (scheme, name, port) = split_name(&ctx.info.name);
    plain_http(scheme)?;
    let ports = object::items(service, "/spec/ports");
    let wanted = ports.iter().find(|p| {
        port.is_empty()
            || text(p, "/name") == port
            || p.get("port")
                .and_then(Value::as_u64)
                .is_some_and(|n| n.to_string() == port)
    });
    let unavailable = |why: String| Status::new(503, "ServiceUnavailable", why);
    let port_name = wanted.map(|p| text(p, "/name").to_owned());
    let port_name = port_name.ok_or_else(|| {
        unavailable(format!(
            "no service port {port:?} found for service {name:?}"
        ))
    })?;
    let row = ctx.server.row("discovery.k8s.io", "v1", "endpointslices")?;
    let slices = list::all(&ctx.server, &row, &ctx.info.namespace)
        .await?
        .items;
    let of_service = |s: &&Value| {
        s.pointer("/metadata/labels/kubernetes.io~1service-name")
            .and_then(Value::as_str)
            == Some(name)
    };
    let mut ready: Vec<SocketAddr> = Vec::new();
    for slice in slices.iter().filter(of_service) {
        let port = object::items(slice, "/ports")
            .iter()
            .find(|p| text(p, "/name") == port_name);
        let Some(port) = port
            .and_then(|p| p.get("port")?.as_u64())
            .and_then(|p| u16::try_from(p).ok())
        else {
            continue;
        };
        for endpoint in object::items(slice, "/endpoints") {
            if endpoint.pointer("/conditions/ready") == Some(&Value::Bool(false)) {
                continue;
            }
            let address = text(endpoint, "/addresses/0").parse::<IpAddr>().ok();
            ready.extend(address.map(|ip| SocketAddr::new(ip, port)));
        }
    }
    if ready.is_empty() {
        return Err(unavailable(format!(
            "no endpoints available for service {name:?}"
        )));
    }
    let pick = rand::rng().random_range(0..ready.len());
    let address = ready
        .get(pick)
        .copied()
        .ok_or_else(|| unavailable("no endpoints".into()))?;
    allowed(address.ip())?;
    Ok(Target {
        address,
        tls: None,
        path: tail(ctx),
    })
}

async fn forward(
    ctx: &Ctx,
    target: Target,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let failed = |e: String| Status::internal(format!("error dialing backend: {e}"));
    let from_client = request
        .extensions_mut()
        .remove::<hyper::upgrade::OnUpgrade>();
    let outgoing = outgoing(&target, request).map_err(|e| failed(e.to_string()))?;
    let response = send(&ctx.server.dialer, &target, outgoing)
        .await
        .map_err(failed)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, body) = response.into_parts();
        strip(&mut parts.headers, false);
        return Ok(Response::from_parts(parts, Body::new(body)));
    }
    let Some(from_client) = from_client else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let (parts, body) = response.into_parts();
    let answer = Response::from_parts(parts.clone(), Body::empty());
    let backend = hyper::upgrade::on(Response::from_parts(parts, body));
    let stop = ctx.server.stopping.clone();
    tokio::spawn(async move {
        let joined = async {
            let (client, backend) = tokio::try_join!(from_client, backend)?;
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            let copied = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
            Ok::<_, hyper::Error>(copied)
        };
        tokio::select! {
            outcome = joined => tracing::debug!(?outcome, "stream ended"),
            () = stop.cancelled() => {}
        }
    });
    Ok(answer)
}

fn outgoing(target: &Target, request: Request<Body>) -> Result<Request<Body>, http::Error> {
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    let upgrade = headers.contains_key(header::UPGRADE);
    strip(&mut headers, upgrade);
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> = headers
        .keys()
        .filter(|k| k.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    impersonation.iter().for_each(|name| {
        headers.remove(name);
    });
    headers.insert(
        header::HOST,
        HeaderValue::from_str(&target.address.to_string())?,
    );
    let uri: Uri = target.path.parse()?;
    let mut request = Request::new(if upgrade { Body::empty() } else { body });
    *request.method_mut() = if parts.method == Method::HEAD {
        Method::GET
    } else {
        parts.method
    };
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

fn strip(headers: &mut HeaderMap, upgrade: bool) {
    for name in HOP {
        if !(upgrade && (name == header::CONNECTION || name == header::UPGRADE)) {
            headers.remove(name);
        }
    }
}

async fn send(
    dialer: &Dialer,
    target: &Target,
    request: Request<Body>,
) -> Result<Response<hyper::body::Incoming>, String> {
    let dial = async {
        let stream = TcpStream::connect(target.address)
            .await
            .map_err(|e| format!("dial tcp {}: {e}", target.address))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        match target.tls {
            None => connection(TokioIo::new(stream)).await,
            Some(name) => {
                let name = rustls::pki_types::ServerName::from(name);
                let tls = TlsConnector::from(dialer.tls()).connect(name, stream).await;
                connection(TokioIo::new(
                    tls.map_err(|e| format!("tls {}: {e}", target.address))?,
                ))
                .await
            }
        }
    };
    let timed = tokio::time::timeout(CONNECT, dial).await;
    let mut sender = timed.map_err(|_| format!("dial tcp {}: i/o timeout", target.address))??;
    sender
        .send_request(request)
        .await
        .map_err(|e| e.to_string())
}

async fn connection<I>(io: I) -> Result<hyper::client::conn::http1::SendRequest<Body>, String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn default_container() {
        let pod = |containers: Value, annotation: Option<&str>| {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
            if let Some(a) = annotation {
                pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: a});
            }
            pod
        };
        let (one, two) = (
            json!([{"name": "a"}]),
            json!([{"name": "a"}, {"name": "b"}]),
        );
        let none = Query::default();
        assert_eq!(
            container(&pod(one.clone(), None), &none).expect("only one"),
            "a"
        );
        assert_eq!(
            container(&pod(two.clone(), Some("b")), &none).expect("annotated"),
            "b"
        );
        let refused = container(&pod(two, None), &none).expect_err("ambiguous");
        assert_eq!(
            refused.message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        let refused =
            container(&pod(one, None), &Query::parse("container=x")).expect_err("unknown");
        assert_eq!(refused.message, "container x is not valid for pod p");
    }

    #[test]
    fn names_and_queries() {
        assert_eq!(split_name("https:web:443"), ("https", "web", "443"));
        assert_eq!(split_name("web:http"), ("", "web", "http"));
        assert_eq!(split_name("web"), ("", "web", ""));
        let query =
            Query::parse("command=sh&command=-c&command=a%20b&stdin=true&stdout=true&tty=false");
        assert_eq!(
            agent_query(Sub::Exec, &query),
            "command=sh&command=-c&command=a%20b&input=1&output=1"
        );
    }
}
