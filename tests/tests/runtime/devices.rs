//! A device plugin of our own: its devices are numbers, which containers get in their environment, with a device node.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt};
use keelson_devices::proto::plugin as v1beta1;
use keelson_devices::proto::plugin::device_plugin_server::{DevicePlugin, DevicePluginServer};
use keelson_devices::proto::plugin::registration_client::RegistrationClient;
use keelson_devices::proto::resources as v1;
use keelson_devices::proto::resources::pod_resources_lister_client::PodResourcesListerClient;
use keelson_tests::bed::json;
use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::{oneshot, watch};
use tonic::{Request, Response, Status};

const NAME: &str = "example.com/widget";
const DIR: &str = "/var/lib/kubelet/device-plugins";
const KUBELET: &str = "/var/lib/kubelet/device-plugins/kubelet.sock";
const SOCKET: &str = "/var/lib/kubelet/device-plugins/widget.sock";
const RESOURCES: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";

type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone)]
struct Widgets {
    calls: Arc<Mutex<Vec<String>>>,
    /// `0 1 2!@1`: the last does not work, and is on a NUMA node.
    devices: watch::Receiver<&'static str>,
    refuses: watch::Receiver<bool>,
}

impl Widgets {
    fn note(&self, call: &str, ids: &[String]) {
        let call = format!("{call} {}", ids.join(","));
        self.calls.lock().unwrap().push(call);
    }
}

fn device(word: &str) -> v1beta1::Device {
    let (id, node) = word.split_once('@').unwrap_or((word, ""));
    let node = node.parse().map(|id| v1beta1::NumaNode { id }).ok();
    v1beta1::Device {
        id: id.trim_end_matches('!').into(),
        health: if id.ends_with('!') {
            "Unhealthy"
        } else {
            "Healthy"
        }
        .into(),
        topology: node.map(|n| v1beta1::TopologyInfo { nodes: vec![n] }),
    }
}

#[tonic::async_trait]
impl DevicePlugin for Widgets {
    type ListAndWatchStream =
        Pin<Box<dyn Stream<Item = Result<v1beta1::ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(
        &self,
        _: Request<v1beta1::Empty>,
    ) -> Answer<v1beta1::DevicePluginOptions> {
        Ok(Response::new(v1beta1::DevicePluginOptions {
            pre_start_required: true,
            get_preferred_allocation_available: true,
        }))
    }

    async fn list_and_watch(&self, _: Request<v1beta1::Empty>) -> Answer<Self::ListAndWatchStream> {
        let told = tokio_stream::wrappers::WatchStream::new(self.devices.clone());
        let told = told.map(|text| {
            let devices = text.split(' ').map(device).collect();
            Ok(v1beta1::ListAndWatchResponse { devices })
        });
        Ok(Response::new(Box::pin(told)))
    }

    /// The last ones.
    async fn get_preferred_allocation(
        &self,
        request: Request<v1beta1::PreferredAllocationRequest>,
    ) -> Answer<v1beta1::PreferredAllocationResponse> {
        let asked = request.into_inner().container_requests.remove(0);
        self.note("prefer", &asked.available_device_i_ds);
        let mut ids = asked.available_device_i_ds;
        ids.sort();
        ids.reverse();
        ids.truncate(usize::try_from(asked.allocation_size).unwrap());
        Ok(Response::new(v1beta1::PreferredAllocationResponse {
            container_responses: vec![v1beta1::ContainerPreferredAllocationResponse {
                device_i_ds: ids,
            }],
        }))
    }

    async fn allocate(
        &self,
        request: Request<v1beta1::AllocateRequest>,
    ) -> Answer<v1beta1::AllocateResponse> {
        let ids = request.into_inner().container_requests.remove(0);
        let ids = ids.devices_ids;
        self.note("allocate", &ids);
        if *self.refuses.borrow() {
            return Err(Status::internal("out of order"));
        }
        let device = v1beta1::DeviceSpec {
            container_path: "/dev/widget".into(),
            host_path: "/run/widget".into(),
            permissions: "rw".into(),
        };
        let mount = v1beta1::Mount {
            container_path: "/widgets".into(),
            host_path: "/run/widgets".into(),
            read_only: true,
        };
        Ok(Response::new(v1beta1::AllocateResponse {
            container_responses: vec![v1beta1::ContainerAllocateResponse {
                envs: [("WIDGETS".to_owned(), ids.join(","))].into(),
                mounts: vec![mount],
                devices: vec![device],
                annotations: [("example.com/widgets".to_owned(), ids.join(","))].into(),
                cdi_devices: Vec::new(),
            }],
        }))
    }

    async fn pre_start_container(
        &self,
        request: Request<v1beta1::PreStartContainerRequest>,
    ) -> Answer<v1beta1::PreStartContainerResponse> {
        self.note("pre-start", &request.into_inner().devices_ids);
        Ok(Response::new(v1beta1::PreStartContainerResponse {}))
    }
}

/// Runs on a thread that sees the node's files.
fn on_node<T: Send + 'static>(
    bed: &Bed,
    code: impl AsyncFnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let pid = bed.server().space.init();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_FS).unwrap();
        let space = std::fs::File::open(format!("/proc/{pid}/ns/mnt")).unwrap();
        setns(space, CloneFlags::CLONE_NEWNS).unwrap();
        // One thread: others would see the files outside.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(code())
    })
}

async fn register(version: &str, resource: &str) -> Result<(), String> {
    let request = v1beta1::RegisterRequest {
        version: version.into(),
        endpoint: "widget.sock".into(),
        resource_name: resource.into(),
        options: None,
    };
    let channel = keelson_devices::connect(Path::new(KUBELET)).await;
    let channel = channel.map_err(|e| e.to_string())?;
    let told = RegistrationClient::new(channel).register(request).await;
    told.map(drop)
        .map_err(|s| format!("{:?}: {}", s.code(), s.message()))
}

/// As plugins do: serves, registers, and does both again when its socket is taken away.
async fn serve(plugin: Widgets, stopped: oneshot::Receiver<()>) {
    let again = async {
        loop {
            let listener = tokio::net::UnixListener::bind(SOCKET).unwrap();
            let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
            let server = tonic::transport::Server::builder()
                .add_service(DevicePluginServer::new(plugin.clone()))
                .serve_with_incoming(incoming);
            let registered = async {
                while let Err(error) = register("v1beta1", NAME).await {
                    plugin.note("not registered", &[error]);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                plugin.note("registered", &[]);
                while Path::new(SOCKET).exists() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::select! {
                served = server => served.unwrap(),
                () = registered => {}
            }
        }
    };
    tokio::select! {
        () = again => {}
        _ = stopped => {}
    }
    let _ = std::fs::remove_file(SOCKET);
}

/// A plugin that runs.
struct Served {
    calls: Arc<Mutex<Vec<String>>>,
    devices: watch::Sender<&'static str>,
    refuses: watch::Sender<bool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn start(bed: &Bed, devices: &'static str) -> Self {
        let (devices, told) = watch::channel(devices);
        let (refuses, refused) = watch::channel(false);
        let plugin = Widgets {
            calls: Arc::default(),
            devices: told,
            refuses: refused,
        };
        let calls = plugin.calls.clone();
        let (stop, stopped) = oneshot::channel();
        Self {
            calls,
            devices,
            refuses,
            stop: Some(stop),
            thread: Some(on_node(bed, async move || serve(plugin, stopped).await)),
        }
    }

    fn calls(&self, of: &str) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        let those = calls.iter().filter(|c| c.starts_with(of));
        those.cloned().collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A pod whose container wants so many.
fn pod(name: &str, count: usize, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{more}  containers:\n  - {{name: c, image: {ECHO}, command: [/bin/sh, -c, 'until [ -e /stop ]; do sleep 0.1; done'], resources: {{limits: {{{NAME}: {count}}}}}}}\n"
    )
}

/// What the node has, and may be used.
fn wait_figures(bed: &Bed, wanted: &str) {
    let of = |list: &str| format!("{{.status.{list}.example\\.com/widget}}");
    let line = format!(
        "get node n1 -o jsonpath='{}/{}'",
        of("capacity"),
        of("allocatable")
    );
    bed.wait_for(&line, wanted);
}

fn wait_running(bed: &Bed, name: &str) {
    let ready = bed.try_kubectl(&format!(
        "wait pod {name} --for=condition=Ready --timeout=60s"
    ));
    let said = || bed.kubectl(&format!("describe pod {name}"));
    assert!(ready.ok, "{}\n{}", ready.err, said());
}

fn widgets(bed: &Bed, name: &str) -> String {
    let said = bed.kubectl(&format!("exec {name} -c c -- sh -c 'echo $WIDGETS'"));
    let mut ids: Vec<&str> = said.trim().split(',').collect();
    ids.sort_unstable();
    ids.join(",")
}

fn wait_failed(bed: &Bed, name: &str, message: &str) {
    bed.wait_for(
        &format!("get pod {name} -o jsonpath='{{.status.phase}} {{.status.reason}}: {{.status.message}}'"),
        &format!("Failed UnexpectedAdmissionError: Pod was rejected: Allocate failed due to {message}, which is unexpected"),
    );
    bed.wait_contains(&format!("describe pod {name}"), "UnexpectedAdmissionError");
    bed.kubectl(&format!("delete pod {name}"));
}

pub(crate) fn plugin(bed: &Bed) {
    let node = bed.server();
    // A number that no driver has: who may open it is told so, who may not is told that.
    node.sh("mknod /run/widget c 240 7; mkdir -p /run/widgets; echo here >/run/widgets/file");
    node.wait_for(KUBELET);
    assert_eq!(
        node.sh(&format!("stat -c %a {DIR} {KUBELET}; ls -A {DIR}")),
        "700\n600\nkubelet.sock\n"
    );
    let wrong = on_node(bed, async || {
        [
            register("v1alpha1", NAME).await,
            register("v1beta1", "widget").await,
            register("v1beta1", NAME).await,
        ]
        .map(|r| r.unwrap_err())
    });
    let wrong = wrong.join().unwrap();
    assert_eq!(
        wrong[..2],
        [
            "Unknown: requested API version \"v1alpha1\" is not supported by kubelet. Supported version is [\"v1beta1\"]",
            "Unknown: the ResourceName \"widget\" is invalid"
        ]
    );
    assert!(
        wrong[2].starts_with("Unknown: failed to dial device plugin: "),
        "{}",
        wrong[2]
    );
    let served = Served::start(bed, "0 1 2!@1");
    wait_figures(bed, "3/2");
    served.devices.send_replace("0 1 2@1");
    wait_figures(bed, "3/3");
    validated(bed);
    given(bed, &served);
    let served = away(bed, served);
    reused(bed, &served);
    served.refuses.send_replace(true);
    bed.apply(&pod("refused", 1, ""));
    wait_failed(
        bed,
        "refused",
        "rpc error: code = Internal desc = out of order",
    );
    eventually("nobody has a device", secs(30), || {
        let file = node.sh(&format!("cat {DIR}/kubelet_internal_checkpoint"));
        let left = json(&file)["Data"]["PodDeviceEntries"].clone();
        anyhow::ensure!(left == serde_json::json!([]), "{left}");
        Ok(())
    });
    drop(served);
    wait_figures(bed, "3/0");
    bed.apply(&pod("none", 1, "  nodeName: n1\n"));
    wait_failed(
        bed,
        "none",
        "no healthy devices present; cannot allocate unhealthy devices example.com/widget",
    );
}

/// Whole numbers, and no more and no less than the limit.
fn validated(bed: &Bed) {
    let with = |resources: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: wrong}}\nspec: {{containers: [{{name: c, image: x, resources: {resources}}}]}}\n"
        )
    };
    for (resources, why) in [
        (
            format!("{{requests: {{{NAME}: 1}}, limits: {{{NAME}: 2}}}}"),
            "must be equal to example.com/widget limit of 2",
        ),
        (
            format!("{{requests: {{{NAME}: 1}}}}"),
            "Limit must be set for non overcommitable resources",
        ),
        (
            format!("{{limits: {{{NAME}: 500m}}}}"),
            "must be an integer",
        ),
    ] {
        let said = bed.refused("apply -f -", &with(&resources));
        assert!(said.contains(why), "{said}");
    }
}

/// A pod has devices, alone, over everything that ends but itself.
fn given(bed: &Bed, served: &Served) {
    let node = bed.server();
    bed.apply(&pod("one", 2, ""));
    wait_running(bed, "one");
    // The plugin prefers the last ones.
    assert_eq!(widgets(bed, "one"), "1,2");
    assert_eq!(served.calls("prefer"), ["prefer 0,1,2"]);
    assert_eq!(bed.kubectl("exec one -- cat /widgets/file").trim(), "here");
    assert!(
        !bed.try_kubectl("exec one -- sh -c 'echo >/widgets/new'").ok,
        "it is read-only"
    );
    let open = |pod: &str| bed.refused(&format!("exec {pod} -- cat /dev/widget"), "");
    let said = open("one");
    assert!(said.contains("No such device or address"), "{said}");
    // Who has no device can make the node, and not open it.
    bed.kubectl(&format!(
        "run other --image={ECHO} --command -- /bin/sleep infinity"
    ));
    wait_running(bed, "other");
    bed.kubectl("exec other -- busybox mknod /dev/widget c 240 7");
    let said = open("other");
    assert!(said.contains("Operation not permitted"), "{said}");
    bed.kubectl("delete pod other --grace-period=0 --force");

    // Another waits for room; one that is put here all the same is refused.
    bed.apply(&pod("two", 2, ""));
    bed.wait_contains("describe pod two", "Insufficient example.com/widget");
    bed.apply(&pod("forced", 2, "  nodeName: n1\n"));
    wait_failed(
        bed,
        "forced",
        "requested number of devices unavailable for example.com/widget. Requested: 2, Available: 1",
    );

    // One does not work for a while.
    let health = "get pod one -o jsonpath='{.status.containerStatuses[0].allocatedResourcesStatus[0].resources[*].health}'";
    bed.wait_for(health, "Healthy Healthy");
    served.devices.send_replace("0 1 2!@1");
    wait_figures(bed, "3/2");
    bed.wait_for(health, "Healthy Unhealthy");
    served.devices.send_replace("0 1 2@1");
    wait_figures(bed, "3/3");
    bed.wait_for(health, "Healthy Healthy");

    // What somebody else says that the node has is counted, and stays.
    let dongles = r#"{"example.com/dongle":"1"}"#;
    bed.kubectl(&format!(
        r#"patch node n1 --subresource=status --type=merge -p '{{"status":{{"capacity":{dongles},"allocatable":{dongles}}}}}'"#
    ));
    bed.apply(&pod("dongle", 1, "").replace("widget", "dongle"));
    wait_running(bed, "dongle");

    // The agent dies; the plugin registers with the next one, and what was given stays given.
    let before = served.calls("registered").len();
    node.kill();
    node.start_again();
    bed.wait_ready();
    bed.wait_node_ready(node);
    eventually("the plugin registers again", secs(60), || {
        anyhow::ensure!(served.calls("registered").len() > before, "not yet");
        Ok(())
    });
    wait_figures(bed, "3/3");
    bed.wait_for(health, "Healthy Healthy");
    bed.apply(&pod("forced", 2, "  nodeName: n1\n"));
    wait_failed(
        bed,
        "forced",
        "requested number of devices unavailable for example.com/widget. Requested: 2, Available: 1",
    );
    let restarts = "get pod one -o jsonpath='{.status.containerStatuses[0].restartCount}'";
    assert_eq!(bed.kubectl(restarts), "0");
    let dongles = r"get node n1 -o jsonpath='{.status.allocatable.example\.com/dongle}'";
    assert_eq!(bed.kubectl(dongles), "1");
    bed.kubectl("delete pod dongle");
    let ready = served.calls("pre-start").len();
    bed.kubectl("exec one -- busybox touch /stop");
    bed.wait_for(restarts, "1");
    wait_running(bed, "one");
    assert_eq!(widgets(bed, "one"), "1,2");
    assert_eq!(served.calls("allocate").len(), 1, "it had them already");
    assert_eq!(served.calls("pre-start").len(), ready + 1);
    listed(bed);

    // It ends, and the next one has its devices.
    bed.kubectl("delete pod one");
    wait_running(bed, "two");
    assert_eq!(widgets(bed, "two"), "1,2");
}

/// Who has what is told to those that ask.
fn listed(bed: &Bed) {
    let asked = on_node(bed, async || {
        let channel = keelson_devices::connect(Path::new(RESOURCES))
            .await
            .unwrap();
        let mut client = PodResourcesListerClient::new(channel);
        let all = client.list(v1::ListPodResourcesRequest {}).await.unwrap();
        let of = |pod_name: &str| v1::GetPodResourcesRequest {
            pod_name: pod_name.into(),
            pod_namespace: "default".into(),
        };
        let one = client.get(of("one")).await.unwrap().into_inner();
        let nobody = client.get(of("nobody")).await.unwrap_err();
        let free = client
            .get_allocatable_resources(v1::AllocatableResourcesRequest {})
            .await;
        let free = free.unwrap().into_inner();
        (all.into_inner(), one, nobody.message().to_owned(), free)
    });
    let (all, one, nobody, free) = asked.join().unwrap();
    let text = |devices: &[v1::ContainerDevices]| {
        let text = |d: &v1::ContainerDevices| {
            let nodes = d.topology.iter().flat_map(|t| &t.nodes);
            let nodes: Vec<String> = nodes.map(|n| n.id.to_string()).collect();
            format!(
                "{} {}@{}",
                d.resource_name,
                d.device_ids.join(","),
                nodes.join(",")
            )
        };
        devices.iter().map(text).collect::<Vec<_>>()
    };
    let one = one.pod_resources.unwrap();
    assert!(all.pod_resources.contains(&one), "{all:?}");
    assert_eq!(
        text(&one.containers[0].devices),
        ["example.com/widget 1@", "example.com/widget 2@1"]
    );
    assert_eq!(nobody, "pod nobody in namespace default not found");
    assert_eq!(
        text(&free.devices),
        ["example.com/widget 0,1@", "example.com/widget 2@1"]
    );
}

/// The plugin ends: none of its devices works; it comes again.
fn away(bed: &Bed, served: Served) -> Served {
    drop(served);
    wait_figures(bed, "3/0");
    let health = "get pod two -o jsonpath='{.status.containerStatuses[0].allocatedResourcesStatus[0].resources[*].health}'";
    bed.wait_for(health, "Unknown Unknown");
    let served = Served::start(bed, "0 1 2@1");
    wait_figures(bed, "3/3");
    bed.wait_for(health, "Healthy Healthy");
    bed.kubectl("delete pod two");
    served
}

/// A container has the devices that its pod's init container had.
fn reused(bed: &Bed, served: &Served) {
    let init = format!(
        "  initContainers:\n  - {{name: i, image: {ECHO}, command: [/bin/sh, -c, 'test -n \"$WIDGETS\"'], resources: {{limits: {{{NAME}: 2}}}}}}\n"
    );
    bed.apply(&pod("reuse", 3, &init));
    wait_running(bed, "reuse");
    assert_eq!(widgets(bed, "reuse"), "0,1,2");
    assert_eq!(served.calls("allocate").len(), 2);
    bed.kubectl("delete pod reuse");
}
