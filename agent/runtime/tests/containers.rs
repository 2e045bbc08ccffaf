//! Containers on a real containerd: life cycle, limits, security, restarts of agent and containerd.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;

use keelson_runtime::{
    ContainerSpec, Created, Image, Mount, PodResources, Qos, Resources, Runtime, RuntimeEvent,
    Security, State,
};
use support::{Node, config, uid};

/// The agent spawns all of these.
#[allow(dead_code)]
fn futures_can_be_spawned(runtime: &Runtime, spec: &ContainerSpec, path: &std::path::Path) {
    fn spawned<T: Send>(_: T) {}
    spawned(runtime.import(path));
    spawned(runtime.pull("", &[]));
    spawned(async { runtime.container_create(spec, &Image::default()).await });
    spawned(runtime.container_start(Created::earlier("")));
    spawned(runtime.container_remove(""));
    spawned(runtime.containers());
    spawned(runtime.exec_sync("", &[], std::time::Duration::ZERO));
    spawned(Runtime::connect(config(path)));
}

/// The shim ends with whichever is the last; the answers of others may be lost with it.
#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_pod_are_removed_at_once() {
    let node = Node::with_image().await;
    for _ in 0..20 {
        let pod = uid();
        let mut ids = Vec::new();
        for name in ["a", "b", "c", "d", "e", "f"] {
            let mut spec = node.spec(&pod, name, "true").await;
            spec.shim_group = Some(pod.clone());
            ids.push(node.run(&spec).await);
        }
        for id in &ids {
            node.exited(id).await;
        }
        let removed = ids.iter().map(|id| node.runtime.container_remove(id));
        for (id, removed) in ids.iter().zip(futures::future::join_all(removed).await) {
            assert!(removed.is_ok(), "{id}: {removed:?}");
        }
    }
    node.finish().await;
}

/// As containerd leaves it when its caller is killed while it starts one.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_without_a_task_goes_with_its_container() {
    let node = Node::with_image().await;
    let pod = uid();
    let lost = node.create(&node.spec(&pod, "lost", "true").await).await;
    let other = node.spec(&pod, "other", "exec sleep 1000").await;
    let other = node.run(&other).await;
    let bundle = node.dir.join("bundle");
    std::fs::create_dir(&bundle).unwrap();
    std::fs::write(bundle.join("config.json"), "{}").unwrap();
    std::fs::write(bundle.join("log"), "").unwrap();
    let namespace = node.runtime.config().namespace.clone();
    let socket = node.runtime.config().socket.clone();
    let started = std::process::Command::new("containerd-shim-runc-v2")
        .args(["-namespace", &namespace, "-id", &lost.id, "-address"])
        .arg(&socket)
        .args(["-publish-binary", "containerd", "start"])
        .current_dir(&bundle)
        .output()
        .unwrap();
    assert!(started.status.success(), "{started:?}");
    let runs = || {
        let all = std::process::Command::new("pgrep")
            .args(["-f", &format!("shim-runc-v2 .*-id {} ", lost.id)])
            .output();
        all.unwrap().status.success()
    };
    assert!(runs());
    // The pod's shim has the name of its first container: while another is in one, this may be it.
    node.runtime.container_remove(&lost.id).await.unwrap();
    assert!(runs(), "others of the pod may need it");
    node.runtime.container_remove(&other).await.unwrap();
    let lost = node.create(&node.spec(&pod, "lost", "true").await).await;
    node.runtime.container_remove(&lost.id).await.unwrap();
    for _ in 0..100 {
        if !runs() {
            return node.finish().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the shim still runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lives_and_ends() {
    let node = Node::with_image().await;
    let mut events = node.runtime.events();
    let spec = node
        .spec(&uid(), "app", "echo out; echo err >&2; hostname; exit 7")
        .await;
    let created = node.create(&spec).await;
    let id = created.id.clone();
    assert_eq!(node.create(&spec).await.id, id, "again: the same");
    assert_eq!(node.get(&id).await.state, State::Created);
    node.runtime.container_start(created).await.unwrap();

    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        let last = matches!(event, RuntimeEvent::Exit { .. });
        seen.push(event);
        if last {
            break;
        }
    }
    assert!(
        seen.contains(&RuntimeEvent::Start { id: id.clone() }),
        "{seen:?}"
    );
    assert!(matches!(seen.last(), Some(RuntimeEvent::Exit { id: of, code: 7, .. }) if *of == id));

    let container = node.get(&id).await;
    assert!(matches!(
        container.state,
        State::Exited {
            code: 7,
            oom: false,
            started: Some(_),
            ..
        }
    ));
    assert_eq!(
        (container.name.as_str(), container.pod.namespace.as_str()),
        ("app", "default")
    );
    let log = node.logged(&spec, "pod-host").await;
    assert!(
        log.contains(" stdout F out\n") && log.contains(" stderr F err\n"),
        "{log}"
    );

    node.runtime.container_remove(&id).await.unwrap();
    node.runtime
        .container_remove(&id)
        .await
        .expect("again: nothing to do");
    assert!(node.runtime.container(&id).await.unwrap().is_none());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_containers_and_removal_needs_none() {
    let node = Node::with_image().await;
    let pod = uid();
    let trap = "trap 'echo bye; exit 3' TERM; echo ready; while true; do sleep 0.1; done";
    let spec = node.spec(&pod, "trap", trap).await;
    let id = node.run(&spec).await;
    node.logged(&spec, "ready").await;
    node.runtime
        .container_kill(&id, "SIGTERM", false)
        .await
        .unwrap();
    assert_eq!(node.exited(&id).await, (3, false));
    node.runtime
        .container_kill(&id, "SIGTERM", false)
        .await
        .expect("no process: success");

    let deaf = node
        .spec(&pod, "deaf", "trap '' TERM; while true; do sleep 1; done")
        .await;
    let id = node.run(&deaf).await;
    node.runtime.container_remove(&id).await.unwrap();
    assert!(node.runtime.container(&id).await.unwrap().is_none());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_start_says_why_and_leaves_nothing() {
    let node = Node::with_image().await;
    let mut spec = node.spec(&uid(), "app", "").await;
    spec.command = vec!["/no/such/program".into()];
    let created = node.create(&spec).await;
    let id = created.id.clone();
    let error = node.runtime.container_start(created).await.unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("/no/such/program") && error.contains("no such file"),
        "{error}"
    );
    assert_eq!(node.get(&id).await.state, State::Created);

    let image = Image {
        top_snapshot: "sha256:absent".into(),
        ..Image::default()
    };
    spec.attempt = 1;
    let error = node.runtime.container_create(&spec, &image).await;
    assert!(error.unwrap_err().is_not_found());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_in_another_life_of_the_machine_has_ended() {
    let node = Node::with_image().await;
    let pod = uid();
    let made = node.create(&node.spec(&pod, "made", "").await).await.id;
    let ran = node.run(&node.spec(&pod, "ran", "exit 0").await).await;
    node.exited(&ran).await;
    std::fs::write(node.runtime.config().run_dir.join("life"), "another").unwrap();
    let later = Runtime::connect(node.runtime.config().clone())
        .await
        .unwrap();
    // Nobody knows how far it came.
    let lost = later.container(&made).await.unwrap().unwrap().state;
    assert!(
        matches!(
            lost,
            State::Exited {
                code: 255,
                started: None,
                ..
            }
        ),
        "{lost:?}"
    );
    // This one has a task that knows.
    let ended = later.container(&ran).await.unwrap().unwrap().state;
    assert!(
        matches!(
            ended,
            State::Exited {
                code: 0,
                started: Some(_),
                ..
            }
        ),
        "{ended:?}"
    );
    // The later one's first container makes its lease, and the earlier one's goes.
    let mut spec = node.spec(&pod, "later", "").await;
    let image = later.image(&spec.image).await.unwrap().unwrap();
    later.container_create(&spec, &image).await.unwrap();
    assert_eq!(later.leases().await.unwrap().len(), 1);
    // The earlier one goes on with another.
    spec.attempt = 1;
    node.create(&spec).await;
    assert_eq!(later.leases().await.unwrap().len(), 1);
    later.leases_remove().await.unwrap();
    assert!(later.leases().await.unwrap().is_empty());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_limits_kill_and_the_reason_survives() {
    let node = Node::with_image().await;
    // dd touches a buffer larger than the limit.
    let mut spec = node
        .spec(
            &uid(),
            "hog",
            "dd if=/dev/zero of=/dev/null bs=200M count=1",
        )
        .await;
    spec.resources = Resources {
        memory_limit: Some(32 << 20),
        ..Resources::default()
    };
    let id = node.run(&spec).await;
    let (code, oom) = node.exited(&id).await;
    assert!(code != 0 && oom, "code {code} oom {oom}");
    let second = Runtime::connect(config(&node.dir)).await.unwrap();
    let state = second.container(&id).await.unwrap().unwrap().state;
    assert!(
        matches!(state, State::Exited { oom: true, .. }),
        "{state:?}"
    );
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_in_the_cgroups_and_usage_is_read() {
    let node = Node::with_image().await;
    let pod = uid();
    let mut spec = node
        .spec(&pod, "app", "echo ready; while true; do sleep 0.05; done")
        .await;
    spec.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory_limit: Some(64 << 20),
        pids_limit: Some(50),
        ..Resources::default()
    };
    let limits = PodResources {
        cpu_shares: Some(512),
        cpu_quota: Some(80_000),
        cpu_period: Some(100_000),
        memory_limit: Some(128 << 20),
        pids_limit: Some(100),
        ..PodResources::default()
    };
    node.runtime
        .pod_cgroup_create(&pod, Qos::Burstable, &limits)
        .unwrap();
    let id = node.run(&spec).await;
    node.logged(&spec, "ready").await;
    let stats = node.runtime.stats(&id).await.unwrap();
    assert!(
        stats.pids >= 1 && stats.cpu_nanos > 0 && stats.memory_usage > 0,
        "{stats:?}"
    );
    assert!(stats.memory_working_set <= stats.memory_usage);
    let whole = node.runtime.pod_stats(&pod).unwrap();
    assert!(whole.memory_usage >= stats.memory_rss, "{whole:?}");
    assert_eq!(
        node.runtime.pod_cgroups().unwrap(),
        [(pod.clone(), Qos::Burstable)]
    );
    // What is left in the cgroup does not keep it.
    node.runtime.pod_cgroup_remove(&pod).unwrap();
    assert_eq!(node.exited(&id).await.0, 137);
    assert!(node.runtime.pod_cgroups().unwrap().is_empty());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_security_context_is_what_the_process_sees() {
    let node = Node::with_image().await;
    let pod = uid();
    let script = "id; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; \
                  touch /x 2>&1; echo $FROM_IMAGE $OWN $HOSTNAME; ls /data; echo y > /data/y";
    let mut spec = node.spec(&pod, "app", script).await;
    let data = node.dir.join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("given"), "").unwrap();
    spec.env = vec![("OWN".into(), "mine".into())];
    spec.mounts = vec![Mount {
        host_path: data.clone(),
        container_path: "/data".into(),
        read_only: true,
        ..Mount::default()
    }];
    spec.security = Security {
        run_as_user: Some(33),
        supplemental_groups: vec![500],
        read_only_rootfs: true,
        no_new_privileges: true,
        cap_drop: vec!["ALL".into()],
        ..Security::default()
    };
    let id = node.run(&spec).await;
    assert_ne!(node.exited(&id).await.0, 0, "the last write is refused");
    let log = node.logged(&spec, "can't create").await;
    for expected in [
        "uid=33(web) gid=34(web) groups=4(log),34(web),500",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Read-only file system",
        "yes mine pod-host",
        "given",
    ] {
        assert!(log.contains(expected), "{expected} not in {log}");
    }

    let mut open = privileged(
        node.spec(&pod, "open", "touch /sys/x 2>&1; ls /dev/null; echo done")
            .await,
    );
    open.attempt = 1;
    let id = node.run(&open).await;
    assert_eq!(node.exited(&id).await.0, 0);
    node.logged(&open, "done").await;
    node.finish().await;
}

fn privileged(mut spec: ContainerSpec) -> ContainerSpec {
    spec.security.privileged = true;
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_its_namespaces_and_a_shim() {
    let node = Node::with_image().await;
    let pod = uid();
    let mut ids = Vec::new();
    let mut logs = Vec::new();
    for name in ["one", "two"] {
        let script = format!(
            "ls -l /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/uts; echo {name} > /dev/shm/{name}; \
             while [ ! -e /dev/shm/one ] || [ ! -e /dev/shm/two ]; do sleep 0.05; done; echo both; sleep 100"
        );
        let mut spec = node.spec(&pod, name, &script).await;
        spec.shim_group = Some(pod.clone());
        ids.push(node.run(&spec).await);
        logs.push(spec);
    }
    let mut seen = Vec::new();
    for spec in &logs {
        let log = node.logged(spec, "both").await;
        let mut inodes: Vec<String> = log
            .split_whitespace()
            .filter(|word| word.contains(":["))
            .map(str::to_owned)
            .collect();
        inodes.sort();
        assert_eq!(inodes.len(), 3, "{log}");
        seen.push(inodes);
    }
    assert_eq!(seen[0], seen[1]);
    let shims = support::processes(&node.dir).into_iter().filter(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("containerd-shim")
    });
    assert_eq!(shims.count(), 1);
    for id in &ids {
        node.runtime.container_remove(id).await.unwrap();
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_runtime_sees_what_the_old_one_left() {
    let mut node = Node::with_image().await;
    let pod = uid();
    let count = "i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.05; done";
    let spec = node.spec(&pod, "app", count).await;
    let id = node.run(&spec).await;
    let done = node.spec(&pod, "done", "exit 5").await;
    let done_id = node.run(&done).await;
    node.exited(&done_id).await;
    let before = node.get(&id).await;
    node.logged(&spec, "tick 3\n").await;

    // The agent's death is that of its runtime; containerd's is a kill.
    node.runtime = Runtime::connect(config(&node.dir)).await.unwrap();
    assert_eq!(node.get(&id).await, before);
    let mut events = node.runtime.events();
    node.restart_containerd();
    while events.recv().await != Some(RuntimeEvent::Reconnected) {}
    assert_eq!(node.get(&id).await, before, "same pid, same start");
    assert!(matches!(
        node.get(&done_id).await.state,
        State::Exited { code: 5, .. }
    ));
    let ticks = node.log(&spec).lines().count();
    node.logged(&spec, &format!("tick {}\n", ticks + 5)).await;

    node.runtime
        .container_kill(&id, "KILL", false)
        .await
        .unwrap();
    while !matches!(
        events.recv().await,
        Some(RuntimeEvent::Exit { code: 137, .. })
    ) {}
    let numbers: Vec<usize> = node
        .log(&spec)
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(
        numbers,
        (1..=numbers.len()).collect::<Vec<_>>(),
        "no line lost or doubled"
    );
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_follow_their_file_through_rotation() {
    let node = Node::with_image().await;
    let spec = node
        .spec(
            &uid(),
            "app",
            "for i in 1 2 3; do echo line $i; sleep 0.3; done",
        )
        .await;
    let id = node.run(&spec).await;
    node.logged(&spec, "line 1").await;
    let old = PathBuf::from(format!("{}.old", spec.log_path.display()));
    std::fs::rename(&spec.log_path, &old).unwrap();
    node.exited(&id).await;
    let new = node.logged(&spec, "line 3").await;
    let whole = std::fs::read_to_string(&old).unwrap() + &new;
    assert_eq!(whole.lines().count(), 3, "{whole}");
    node.finish().await;
}
