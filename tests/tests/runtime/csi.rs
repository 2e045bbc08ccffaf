//! A CSI driver of our own: its volumes are folders on the node, which it makes where it is asked to.

use std::path::Path;
use std::sync::{Arc, Mutex};

use keelson_csi::proto::csi;
use keelson_csi::proto::csi::node_server::{Node, NodeServer};
use keelson_csi::proto::csi::node_service_capability::Type;
use keelson_csi::proto::csi::node_service_capability::rpc::Type as Rpc;
use keelson_csi::proto::registration::registration_server::{Registration, RegistrationServer};
use keelson_csi::proto::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use keelson_tests::bed::json;
use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};
use nix::sched::{CloneFlags, setns, unshare};
use tonic::{Request, Response, Status};

const NAME: &str = "test.keelson.io";
const REGISTRY: &str = "/var/lib/keelson/plugins_registry";
const SOCKET: &str = "/var/lib/keelson/plugins_registry/test.sock";

#[derive(Clone, Default)]
struct Driver {
    calls: Arc<Mutex<Vec<String>>>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Driver {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: NAME.into(),
            endpoint: String::new(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        status: Request<RegistrationStatus>,
    ) -> Answer<RegistrationStatusResponse> {
        let status = status.into_inner();
        self.note(format!(
            "registered {} {}",
            status.plugin_registered, status.error
        ));
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Answer<csi::NodeStageVolumeResponse> {
        let r = request.into_inner();
        let secret = r.secrets.get("key").cloned().unwrap_or_default();
        self.note(format!("stage {} {secret}", r.volume_id));
        std::fs::write(Path::new(&r.staging_target_path).join("staged"), "")?;
        Ok(Response::new(csi::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Answer<csi::NodeUnstageVolumeResponse> {
        let r = request.into_inner();
        self.note(format!("unstage {}", r.volume_id));
        let _ = std::fs::remove_file(Path::new(&r.staging_target_path).join("staged"));
        Ok(Response::new(csi::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Answer<csi::NodePublishVolumeResponse> {
        let r = request.into_inner();
        let pod = r.volume_context.get("csi.storage.k8s.io/pod.name");
        let what = match r.staging_target_path.is_empty() {
            true => "inline".to_owned(),
            false => r.volume_id.clone(),
        };
        self.note(format!(
            "publish {what} for {}",
            pod.cloned().unwrap_or_default()
        ));
        let target = Path::new(&r.target_path);
        std::fs::create_dir_all(target)?;
        std::fs::write(target.join("volume"), &what)?;
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Answer<csi::NodeUnpublishVolumeResponse> {
        let r = request.into_inner();
        let id = if r.volume_id.starts_with("csi-") {
            "inline"
        } else {
            &r.volume_id
        };
        self.note(format!("unpublish {id}"));
        let _ = std::fs::remove_dir_all(Path::new(&r.target_path));
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Answer<csi::NodeGetVolumeStatsResponse> {
        use csi::volume_usage::Unit;
        let of = |unit: Unit, used| csi::VolumeUsage {
            unit: unit as i32,
            total: 1000,
            used,
            available: 1000 - used,
        };
        Ok(Response::new(csi::NodeGetVolumeStatsResponse {
            usage: vec![of(Unit::Bytes, 421), of(Unit::Inodes, 7)],
        }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Answer<csi::NodeExpandVolumeResponse> {
        let r = request.into_inner();
        let bytes = r.capacity_range.unwrap_or_default().required_bytes;
        self.note(format!("expand {} {bytes}", r.volume_id));
        Ok(Response::new(csi::NodeExpandVolumeResponse {
            capacity_bytes: bytes,
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Answer<csi::NodeGetCapabilitiesResponse> {
        let of = |rpc: Rpc| csi::NodeServiceCapability {
            r#type: Some(Type::Rpc(csi::node_service_capability::Rpc {
                r#type: rpc as i32,
            })),
        };
        Ok(Response::new(csi::NodeGetCapabilitiesResponse {
            capabilities: [
                Rpc::StageUnstageVolume,
                Rpc::ExpandVolume,
                Rpc::GetVolumeStats,
            ]
            .map(of)
            .into(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Answer<csi::NodeGetInfoResponse> {
        let segments = [("topology.test/rack".to_owned(), "r1".to_owned())];
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: "the-node".into(),
            max_volumes_per_node: 7,
            accessible_topology: Some(csi::Topology {
                segments: segments.into(),
            }),
        }))
    }
}

/// A driver that runs, on a thread that sees the node's files.
struct Served {
    calls: Arc<Mutex<Vec<String>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn start(bed: &Bed) -> Self {
        let driver = Driver::default();
        let (calls, pid) = (driver.calls.clone(), bed.server().pid());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS).unwrap();
            let space = std::fs::File::open(format!("/proc/{pid}/ns/mnt")).unwrap();
            setns(space, CloneFlags::CLONE_NEWNS).unwrap();
            // One thread: others would see the files outside.
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(async {
                std::fs::create_dir_all(REGISTRY).unwrap();
                let listener = tokio::net::UnixListener::bind(SOCKET).unwrap();
                let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
                let server = tonic::transport::Server::builder()
                    .add_service(RegistrationServer::new(driver.clone()))
                    .add_service(NodeServer::new(driver))
                    .serve_with_incoming(incoming);
                tokio::select! {
                    served = server => served.unwrap(),
                    _ = stopped => {}
                }
            });
            std::fs::remove_file(SOCKET).unwrap();
        });
        Self {
            calls,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
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

/// The driver counts, not we.
fn figures(bed: &Bed) {
    let summary = json(&bed.kubectl("get --raw /api/v1/nodes/n1/proxy/stats/summary"));
    let pods = summary["pods"].as_array().unwrap();
    let ours = pods.iter().find(|p| p["podRef"]["name"] == "csi").unwrap();
    for volume in ours["volume"].as_array().unwrap() {
        let of = |field: &str| volume[field].as_u64();
        if volume["name"] == "v" || volume["name"] == "own" {
            let all = ["capacityBytes", "usedBytes", "availableBytes", "inodesUsed"].map(of);
            assert_eq!(all, [1000, 421, 579, 7].map(Some), "{volume}");
        }
    }
    assert_eq!(ours["volume"].as_array().unwrap().len(), 3, "{ours}");
}

/// The storage has grown: we are the resizer too. The pod's file system follows.
fn grows(bed: &Bed, driver: &Served) {
    let status = "--subresource=status --type=merge -p";
    bed.kubectl("patch pv csi --type=merge -p '{\"spec\":{\"capacity\":{\"storage\":\"3Gi\"}}}'");
    bed.kubectl(&format!(
        "patch pvc csi {status} '{{\"status\":{{\"conditions\":[{{\"type\":\"FileSystemResizePending\",\"status\":\"True\"}}]}}}}'"
    ));
    // The node looks when it looks after its volumes: a change of the pod is the sooner occasion.
    bed.kubectl("annotate pod csi look=again");
    bed.wait_for(
        "get pvc csi -o jsonpath='{.status.capacity.storage}{.status.conditions}'",
        "3Gi",
    );
    let calls = driver.calls();
    let wanted = format!("expand handle {}", 3u64 << 30);
    assert!(calls.contains(&wanted), "{calls:?}");
    bed.wait_contains("describe pod csi", "FileSystemResizeSuccessful");
}

pub(crate) fn driver(bed: &Bed) {
    let driver = Served::start(bed);
    let drivers = "get csinode n1 -o jsonpath={.spec.drivers[*].name}/{.spec.drivers[*].nodeID}/{.spec.drivers[*].allocatable.count}/{.spec.drivers[*].topologyKeys}";
    eventually("the driver is in the CSINode", secs(30), || {
        let said = bed.try_kubectl(drivers).out;
        anyhow::ensure!(
            said == format!("{NAME}/the-node/7/[\"topology.test/rack\"]"),
            "{said}"
        );
        Ok(())
    });
    bed.wait_contains("get node n1 --show-labels", "topology.test/rack=r1");
    bed.kubectl("create secret generic stage --from-literal=key=geheim");
    bed.apply(&format!(
        r#"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {{name: {NAME}}}
spec: {{podInfoOnMount: true, volumeLifecycleModes: [Persistent, Ephemeral]}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: csi}}
spec: {{accessModes: [ReadWriteOnce], capacity: {{storage: 2Gi}}, storageClassName: none,
  csi: {{driver: {NAME}, volumeHandle: handle, nodeStageSecretRef: {{name: stage, namespace: default}}}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: csi}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}, storageClassName: none}}
---
apiVersion: v1
kind: Pod
metadata: {{name: csi}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: {ECHO}
    command: [/bin/sleep, infinity]
    volumeMounts: [{{name: v, mountPath: /v}}, {{name: own, mountPath: /own}}]
  volumes:
  - {{name: v, persistentVolumeClaim: {{claimName: csi}}}}
  - {{name: own, csi: {{driver: {NAME}}}}}
"#
    ));
    // We are the attacher too.
    let attachment = "get volumeattachment -o jsonpath={.items[*].metadata.name}";
    bed.wait_contains("describe pod csi", "is not attached to this node");
    let name = bed.kubectl(attachment);
    bed.kubectl(&format!(
        "patch volumeattachment {name} --subresource=status --type=merge -p '{{\"status\":{{\"attached\":true}}}}'"
    ));
    let ready = bed.try_kubectl("wait pod csi --for=condition=Ready --timeout=60s");
    assert!(
        ready.ok,
        "{}\n{}",
        ready.err,
        bed.kubectl("describe pod csi")
    );
    assert_eq!(
        bed.kubectl("exec csi -- cat /v/volume /own/volume"),
        "handleinline"
    );
    bed.server().sh(
        "ls /var/lib/keelson/agent/plugins/kubernetes.io/csi/test.keelson.io/*/globalmount/staged",
    );
    bed.wait_for(
        "get node n1 -o jsonpath={.status.volumesInUse[*]}",
        &format!("kubernetes.io/csi/{NAME}^handle"),
    );
    figures(bed);
    grows(bed, &driver);
    // The driver is away when the pod goes: it is asked when it is back, also by an agent that started again.
    let before = driver.calls();
    drop(driver);
    bed.kubectl("delete pod csi --wait=false");
    bed.wait_for("get csinode n1 -o jsonpath={.spec.drivers}", "[]");
    bed.server().kill();
    bed.server().start_again();
    bed.wait_ready();
    let driver = Served::start(bed);
    eventually("the pod is gone", secs(60), || {
        let left = bed
            .try_kubectl("get pod csi -o name --ignore-not-found")
            .out;
        anyhow::ensure!(left.trim().is_empty(), "{left}");
        let calls = driver.calls();
        anyhow::ensure!(calls.iter().any(|c| c == "unstage handle"), "{calls:?}");
        Ok(())
    });
    for call in [
        "registered true ",
        "stage handle geheim",
        "publish handle for csi",
        "publish inline for csi",
    ] {
        assert!(
            before.iter().any(|c| c == call),
            "no {call:?} in {before:?}"
        );
    }
    bed.wait_for(attachment, "");
    let after = driver.calls();
    for call in ["unpublish handle", "unpublish inline"] {
        assert!(after.iter().any(|c| c == call), "no {call:?} in {after:?}");
    }
    let left = bed
        .server()
        .sh("find /var/lib/keelson/agent/plugins -type f; ls /var/lib/keelson/agent/pods | wc -l");
    assert!(!left.contains("staged"), "{left}");
    bed.kubectl("delete pvc csi");
    bed.kubectl("delete pv csi");
    bed.kubectl(&format!("delete csidriver {NAME}"));
}
