//! The kube crate.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use keelson_tests::wait::{eventually_async, secs};
use keelson_tests::{Bed, Suite};
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
    WatchEvent, WatchParams,
};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Discovery, Error, ResourceExt};
use serde_json::{Value, json};

#[test]
fn kube_crate() {
    let bed = Bed::api(&[]);
    let mut suite = Suite::new();
    suite.step("create, get, replace, conflict, delete", || bed.kube(crud));
    suite.step("generateName, dry run, preconditions", || bed.kube(names));
    suite.step("lists in pages are of one revision", || bed.kube(pages));
    suite.step("server-side apply", || bed.kube(apply));
    suite.step("status and scale are apart", || bed.kube(subresources));
    suite.step("finalizers", || bed.kube(finalizers));
    suite.step("owners take their dependents along", || bed.kube(owners));
    suite.step("a namespace takes its content along", || {
        bed.kube(namespaces)
    });
    suite.step("unknown fields are refused with their path", || {
        bed.kube(strict)
    });
    suite.step("deletecollection selects", || bed.kube(delete_many));
    suite.step("watch: from a revision, selected, 410", || bed.kube(watch));
    suite.step("discovery", || bed.kube(discover));
    suite.step("a watcher goes on over a restart", || restart(&bed));
    suite.done();
}

fn map(name: &str, data: Value) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap()
}

/// An API error with this code and reason.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: kube::Result<T>, code: u16, reason: &str) -> String {
    match result {
        Err(Error::Api(status)) if status.code == code && status.reason == reason => status.message,
        other => panic!("wanted {code} {reason}, got {other:?}"),
    }
}

async fn crud(client: Client) {
    let api = Api::<ConfigMap>::default_namespaced(client);
    let post = PostParams::default();
    let made = api
        .create(&post, &map("one", json!({"a": "1"})))
        .await
        .unwrap();
    assert!(
        made.uid().is_some()
            && made.creation_timestamp().is_some()
            && made.namespace().as_deref() == Some("default")
    );
    refused(
        api.create(&post, &map("one", json!({}))).await,
        409,
        "AlreadyExists",
    );
    let mut new = made.clone();
    new.data.as_mut().unwrap().insert("a".into(), "2".into());
    let newer = api.replace("one", &post, &new).await.unwrap();
    assert_ne!(newer.resource_version(), made.resource_version());
    let message = refused(api.replace("one", &post, &new).await, 409, "Conflict");
    assert!(
        message.contains("the object has been modified"),
        "{message}"
    );
    // What changes nothing makes no revision.
    let same = api.replace("one", &post, &newer).await.unwrap();
    assert_eq!(same.resource_version(), newer.resource_version());
    api.delete("one", &DeleteParams::default()).await.unwrap();
    refused(api.get("one").await, 404, "NotFound");
    assert!(api.get_opt("one").await.unwrap().is_none());
}

async fn names(client: Client) {
    let api = Api::<ConfigMap>::default_namespaced(client);
    let post = PostParams::default();
    let generated: ConfigMap =
        serde_json::from_value(json!({"metadata": {"generateName": "some-"}})).unwrap();
    let (a, b) = (
        api.create(&post, &generated).await.unwrap(),
        api.create(&post, &generated).await.unwrap(),
    );
    assert!(
        a.name_any().starts_with("some-")
            && a.name_any().len() == 10
            && a.name_any() != b.name_any()
    );
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    assert!(
        api.create(&dry, &map("dry", json!({})))
            .await
            .unwrap()
            .uid()
            .is_some()
    );
    assert!(api.get_opt("dry").await.unwrap().is_none());
    let wrong = Preconditions {
        uid: Some("another".into()),
        resource_version: None,
    };
    let name = a.name_any();
    refused(
        api.delete(&name, &DeleteParams::default().preconditions(wrong))
            .await,
        409,
        "Conflict",
    );
    api.delete(
        &name,
        &DeleteParams {
            dry_run: true,
            ..DeleteParams::default()
        },
    )
    .await
    .unwrap();
    assert!(api.get_opt(&name).await.unwrap().is_some());
}

async fn pages(client: Client) {
    let api = Api::<ConfigMap>::default_namespaced(client);
    let label = |name: &str| {
        let mut map = map(name, json!({}));
        map.metadata.labels = Some(BTreeMap::from([("set".into(), "pages".into())]));
        map
    };
    for n in 0..7 {
        api.create(&PostParams::default(), &label(&format!("page-{n}")))
            .await
            .unwrap();
    }
    let page = ListParams::default().labels("set=pages").limit(3);
    let first = api.list(&page).await.unwrap();
    assert_eq!(
        (first.items.len(), first.metadata.remaining_item_count),
        (3, None)
    );
    // Written between the pages: not seen by the ones to come.
    api.create(&PostParams::default(), &label("page-3a"))
        .await
        .unwrap();
    api.delete("page-5", &DeleteParams::default())
        .await
        .unwrap();
    let mut names: Vec<String> = first.items.iter().map(ResourceExt::name_any).collect();
    let mut next = first.metadata.continue_.clone();
    while let Some(token) = next.filter(|t| !t.is_empty()) {
        let more = api
            .list(&page.clone().continue_token(&token))
            .await
            .unwrap();
        assert_eq!(
            more.metadata.resource_version,
            first.metadata.resource_version
        );
        names.extend(more.items.iter().map(ResourceExt::name_any));
        next = more.metadata.continue_;
    }
    let wanted: Vec<String> = (0..7).map(|n| format!("page-{n}")).collect();
    assert_eq!(names, wanted);
    refused(
        api.list(&page.clone().continue_token("nonsense")).await,
        400,
        "BadRequest",
    );
}

async fn apply(client: Client) {
    let api = Api::<Service>::default_namespaced(client);
    let service = |port: u16| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "applied"}, "spec": {"ports": [{"port": port, "name": "a"}], "selector": {"a": "b"}}});
    let one = PatchParams::apply("one");
    let made = api
        .patch("applied", &one, &Patch::Apply(service(80)))
        .await
        .unwrap();
    assert!(
        made.spec
            .unwrap()
            .cluster_ip
            .is_some_and(|ip| ip.starts_with("10.43."))
    );
    let two = PatchParams::apply("two");
    let mut more = service(81);
    more["spec"]["ports"][0]["name"] = "b".into();
    more["spec"].as_object_mut().unwrap().remove("selector");
    let both = api
        .patch("applied", &two, &Patch::Apply(&more))
        .await
        .unwrap();
    assert_eq!(
        both.spec.unwrap().ports.unwrap().len(),
        2,
        "ports are a list by port and protocol"
    );
    let mut other = service(80);
    other["spec"]["selector"]["a"] = "c".into();
    let message = refused(
        api.patch("applied", &two, &Patch::Apply(&other)).await,
        409,
        "Conflict",
    );
    assert!(
        message.contains("conflict with \"one\"") && message.contains(".spec.selector"),
        "{message}"
    );
    let forced = api
        .patch("applied", &two.clone().force(), &Patch::Apply(&other))
        .await
        .unwrap();
    assert_eq!(forced.spec.unwrap().selector.unwrap()["a"], "c");
    let again = api
        .patch("applied", &two, &Patch::Apply(&other))
        .await
        .unwrap();
    assert_eq!(
        again.resource_version(),
        api.get("applied").await.unwrap().resource_version()
    );
}

fn deployment(name: &str) -> Deployment {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": name}},
        "template": {"metadata": {"labels": {"a": name}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}}}))
    .unwrap()
}

async fn subresources(client: Client) {
    let api = Api::<Deployment>::default_namespaced(client);
    let mut one = deployment("sub");
    one.status = serde_json::from_value(json!({"replicas": 9})).unwrap();
    let made = api.create(&PostParams::default(), &one).await.unwrap();
    assert_eq!(
        made.status.and_then(|s| s.replicas),
        None,
        "status is not for the main resource"
    );
    assert_eq!(made.metadata.generation, Some(1));
    let status = json!({"spec": {"replicas": 7}, "status": {"collisionCount": 5}});
    let changed = api
        .patch_status("sub", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    assert_eq!(
        changed.spec.and_then(|s| s.replicas),
        Some(0),
        "spec is not for the status"
    );
    assert_eq!(
        (
            changed.metadata.generation,
            changed.status.unwrap().collision_count
        ),
        (Some(1), Some(5))
    );
    let scale = api
        .patch_scale(
            "sub",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"replicas": 1}})),
        )
        .await
        .unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(1));
    let now = api.get("sub").await.unwrap();
    assert_eq!(
        (now.metadata.generation, now.spec.unwrap().replicas),
        (Some(2), Some(1))
    );
    api.delete("sub", &DeleteParams::default()).await.unwrap();
}

async fn finalizers(client: Client) {
    let api = Api::<ConfigMap>::default_namespaced(client);
    let mut held = map("held", json!({}));
    held.metadata.finalizers = Some(vec!["example.org/mine".into()]);
    api.create(&PostParams::default(), &held).await.unwrap();
    let going = api
        .delete("held", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .expect("the object, not yet gone");
    assert!(going.metadata.deletion_timestamp.is_some());
    let more = json!({"metadata": {"finalizers": ["example.org/mine", "example.org/more"]}});
    refused(
        api.patch("held", &PatchParams::default(), &Patch::Merge(more))
            .await,
        422,
        "Invalid",
    );
    let none = json!({"metadata": {"finalizers": null}});
    api.patch("held", &PatchParams::default(), &Patch::Merge(none))
        .await
        .unwrap();
    assert!(api.get_opt("held").await.unwrap().is_none());
}

async fn owners(client: Client) {
    let api = Api::<ConfigMap>::default_namespaced(client);
    for (policy, child_stays) in [
        (PropagationPolicy::Background, false),
        (PropagationPolicy::Foreground, false),
        (PropagationPolicy::Orphan, true),
    ] {
        let name = format!("owner-{policy:?}").to_lowercase();
        let child = format!("child-of-{name}");
        let owner = api
            .create(&PostParams::default(), &map(&name, json!({})))
            .await
            .unwrap();
        let mut owned = map(&child, json!({}));
        let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner.uid(), "blockOwnerDeletion": true});
        owned.metadata.owner_references = Some(vec![serde_json::from_value(reference).unwrap()]);
        api.create(&PostParams::default(), &owned).await.unwrap();
        let params = DeleteParams {
            propagation_policy: Some(policy),
            ..DeleteParams::default()
        };
        api.delete(&name, &params).await.unwrap();
        eventually_async(&format!("{name} is gone"), secs(60), async || {
            let (owner, child) = (api.get_opt(&name).await?, api.get_opt(&child).await?);
            anyhow::ensure!(owner.is_none(), "the owner is there");
            let child = child.map(|c| c.owner_references().len());
            anyhow::ensure!(
                child == child_stays.then_some(0),
                "owners of the child: {child:?}"
            );
            Ok(())
        })
        .await;
    }
    // An owner that never was.
    let mut orphan = map("orphan", json!({}));
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "00000000-0000-4000-8000-000000000000"});
    orphan.metadata.owner_references = Some(vec![serde_json::from_value(reference).unwrap()]);
    api.create(&PostParams::default(), &orphan).await.unwrap();
    eventually_async("the orphan is gone", secs(60), async || {
        anyhow::ensure!(api.get_opt("orphan").await?.is_none(), "it is there");
        Ok(())
    })
    .await;
}

async fn namespaces(client: Client) {
    let all = Api::<Namespace>::all(client.clone());
    all.create(
        &PostParams::default(),
        &serde_json::from_value(json!({"metadata": {"name": "short"}})).unwrap(),
    )
    .await
    .unwrap();
    let inside = Api::<ConfigMap>::namespaced(client.clone(), "short");
    eventually_async("the namespace is furnished", secs(60), async || {
        anyhow::ensure!(
            inside.get_opt("kube-root-ca.crt").await?.is_some(),
            "no kube-root-ca.crt"
        );
        Ok(())
    })
    .await;
    let mut held = map("held", json!({}));
    held.metadata.finalizers = Some(vec!["example.org/mine".into()]);
    inside.create(&PostParams::default(), &held).await.unwrap();
    inside
        .create(&PostParams::default(), &map("free", json!({})))
        .await
        .unwrap();
    all.delete("short", &DeleteParams::default()).await.unwrap();
    eventually_async("all but what is held is gone", secs(60), async || {
        anyhow::ensure!(inside.get_opt("free").await?.is_none(), "free is there");
        Ok(())
    })
    .await;
    let message = refused(
        inside
            .create(&PostParams::default(), &map("late", json!({})))
            .await,
        403,
        "Forbidden",
    );
    assert!(
        message.contains("because it is being terminated"),
        "{message}"
    );
    assert!(
        all.get("short")
            .await
            .unwrap()
            .status
            .unwrap()
            .phase
            .as_deref()
            == Some("Terminating")
    );
    inside
        .patch(
            "held",
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": {"finalizers": null}})),
        )
        .await
        .unwrap();
    eventually_async("the namespace is gone", secs(60), async || {
        anyhow::ensure!(all.get_opt("short").await?.is_none(), "it is there");
        Ok(())
    })
    .await;
    let lost = Api::<ConfigMap>::namespaced(client, "nowhere")
        .create(&PostParams::default(), &map("x", json!({})))
        .await;
    let message = refused(lost, 404, "NotFound");
    assert_eq!(message, "namespaces \"nowhere\" not found");
}

async fn strict(client: Client) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "strict"},
        "spec": {"containers": [{"name": "a", "image": "x", "imaeg": "y"}], "nonsense": {"a": 1}}});
    let create = async |validation: &str| {
        let path =
            format!("/api/v1/namespaces/default/pods?dryRun=All&fieldValidation={validation}");
        let request = http::Request::post(path).header("content-type", "application/json");
        client
            .request::<Value>(request.body(serde_json::to_vec(&pod).unwrap()).unwrap())
            .await
    };
    let message = refused(create("Strict").await, 400, "BadRequest");
    for field in [
        "unknown field \"spec.containers[0].imaeg\"",
        "unknown field \"spec.nonsense\"",
    ] {
        assert!(message.contains(field), "{message}");
    }
    let made = create("Ignore").await.unwrap();
    assert!(
        made["spec"]["nodeSelector"].is_null() && made["spec"]["nonsense"].is_null(),
        "unknown fields are not kept"
    );
    refused(create("Perhaps").await, 422, "Invalid");
}

async fn delete_many(client: Client) {
    let api = Api::<ConfigMap>::default_namespaced(client);
    for n in 0..4 {
        let mut one = map(&format!("many-{n}"), json!({}));
        one.metadata.labels = Some(BTreeMap::from([("even".into(), (n % 2 == 0).to_string())]));
        api.create(&PostParams::default(), &one).await.unwrap();
    }
    api.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("even=true"),
    )
    .await
    .unwrap();
    let left = api
        .list(&ListParams::default().labels("even"))
        .await
        .unwrap();
    let names: Vec<String> = left.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["many-1", "many-3"]);
}

async fn watch(client: Client) {
    let api = Api::<ConfigMap>::default_namespaced(client.clone());
    let from = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let label = |value: &str| json!({"metadata": {"labels": {"watched": value}}});
    api.create(&PostParams::default(), &map("watched", json!({})))
        .await
        .unwrap();
    for value in ["yes", "yes2", "no", "yes"] {
        api.patch(
            "watched",
            &PatchParams::default(),
            &Patch::Merge(label(value)),
        )
        .await
        .unwrap();
    }
    api.delete("watched", &DeleteParams::default())
        .await
        .unwrap();
    // Coming into the selection is ADDED, leaving it DELETED.
    let params = WatchParams::default()
        .labels("watched in (yes, yes2)")
        .timeout(10);
    let events = api
        .watch(&params, &from)
        .await
        .unwrap()
        .take(5)
        .map(|event| match event.unwrap() {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            other => panic!("{other:?}"),
        });
    let events: Vec<_> = events.collect().await;
    assert_eq!(events, ["added", "modified", "deleted", "added", "deleted"]);
    // A revision that never was is told at once, and not waited for forever.
    let late = api.watch(&WatchParams::default().timeout(5), "1").await;
    let gone = match late {
        Err(Error::Api(status)) => status.code == 410,
        Err(other) => panic!("{other}"),
        Ok(stream) => match stream.boxed().next().await {
            Some(Ok(WatchEvent::Error(status))) => status.code == 410,
            // Revision 1 is still kept: then all since is told.
            Some(Ok(WatchEvent::Added(_) | WatchEvent::Modified(_))) => true,
            other => panic!("{other:?}"),
        },
    };
    assert!(gone);
    refused(
        api.watch(&WatchParams::default(), "soon").await.map(|_| ()),
        422,
        "Invalid",
    );
}

async fn discover(client: Client) {
    let discovery = Discovery::new(client.clone()).run().await.unwrap();
    let aggregated = Discovery::new(client).run_aggregated().await.unwrap();
    for discovery in [&discovery, &aggregated] {
        for (group, kind) in [
            ("", "Pod"),
            ("apps", "Deployment"),
            ("discovery.k8s.io", "EndpointSlice"),
            ("coordination.k8s.io", "Lease"),
        ] {
            let kind = GroupVersionKind::gvk(group, "v1", kind);
            assert!(discovery.resolve_gvk(&kind).is_some(), "{kind:?}");
        }
    }
}

/// A watcher as controllers use it, while the server is killed and started again.
fn restart(bed: &Bed) {
    let seen = std::sync::Mutex::new(Vec::<String>::new());
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            bed.kube(async |client| {
                let api = Api::<ConfigMap>::default_namespaced(client);
                let stream = watcher(api, watcher::Config::default().labels("restart"))
                    .default_backoff()
                    .applied_objects();
                let mut stream = std::pin::pin!(stream);
                let all = async {
                    while let Some(next) = stream.next().await {
                        let Ok(object) = next else { continue };
                        seen.lock().unwrap().push(object.name_any());
                        if object.name_any() == "r-last" {
                            return;
                        }
                    }
                };
                tokio::time::timeout(Duration::from_secs(60), all)
                    .await
                    .expect("the last object is seen");
            });
        });
        for n in 0..4 {
            bed.kubectl(&format!("create -f - <<<'{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"r-{n}\",\"labels\":{{\"restart\":\"\"}}}}}}'"));
            bed.server().kill();
            bed.server().start_again();
            bed.wait_ready();
        }
        bed.kubectl("create -f - <<<'{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"r-last\",\"labels\":{\"restart\":\"\"}}}'");
        watching.join().unwrap();
    });
    let seen = seen.into_inner().unwrap();
    for n in 0..4 {
        assert!(seen.contains(&format!("r-{n}")), "{seen:?}");
    }
}
