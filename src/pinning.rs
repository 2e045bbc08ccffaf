//! From the file's fields to what the agent is told about CPU, memory and topology manager.

use keelson_agent_plan::{cpu_manager, memory_manager, topology};

use crate::options::NodeOptions;
use crate::pressure;

/// Lays what the options say over the defaults. CPUs that are reserved by name replace those reserved by number.
pub(crate) fn configure(
    config: &mut keelson_agent::Config,
    options: &NodeOptions,
) -> anyhow::Result<()> {
    let pinning = &mut config.pinning;
    let map = |m: &Option<_>| m.clone().unwrap_or_default();
    pinning.topology = topology::Settings::parse(
        options.topology_manager_policy.as_deref(),
        options.topology_manager_scope.as_deref(),
        &map(&options.topology_manager_policy_options),
    )?;
    pinning.cpu = cpu_manager::Settings::parse(
        options.cpu_manager_policy.as_deref(),
        &map(&options.cpu_manager_policy_options),
        options.reserved_system_cpus.as_deref(),
        pinning.topology.policy,
    )?;
    let period = &options.cpu_manager_reconcile_period;
    pressure::set(&mut pinning.period, "cpuManagerReconcilePeriod", period)?;
    pinning.memory = memory_manager::Settings::parse(
        options.memory_manager_policy.as_deref(),
        options.reserved_memory.as_deref().unwrap_or_default(),
    )?;
    let named = u64::try_from(pinning.cpu.reserved.len())?;
    if named > 0 {
        config.reserved.cpu = named * 1000;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<keelson_agent::Config> {
        let options: NodeOptions = serde_yaml_ng::from_str(text)?;
        let mut config = keelson_agent::Config::new("n", Vec::new());
        pressure::configure(&mut config, &options)?;
        configure(&mut config, &options).map(|()| config)
    }

    #[test]
    fn fields_have_upstreams_names() {
        let text = "
kubeReserved: {cpu: 100m}
cpuManagerPolicy: static
cpuManagerPolicyOptions: {full-pcpus-only: 'true', strict-cpu-reservation: 'false'}
cpuManagerReconcilePeriod: 5s
reservedSystemCPUs: 0,2-3
memoryManagerPolicy: Static
reservedMemory: [{numaNode: 0, limits: {memory: 1Gi, hugepages-2Mi: 4Mi}}]
topologyManagerPolicy: single-numa-node
topologyManagerScope: pod
topologyManagerPolicyOptions: {prefer-closest-numa-nodes: 'true'}
";
        let config = read(text).expect("valid");
        let pinning = config.pinning;
        assert!(pinning.cpu.exclusive && pinning.cpu.options.full_cores);
        assert!(!pinning.cpu.options.strict && pinning.memory.pinned);
        assert_eq!(
            (pinning.cpu.reserved.to_string(), config.reserved.cpu),
            ("0,2-3".into(), 3000)
        );
        assert_eq!(pinning.period.as_secs(), 5);
        let kept = &pinning.memory.reserved[&0];
        assert_eq!((kept["memory"], kept["hugepages-2Mi"]), (1 << 30, 4 << 20));
        assert_eq!(pinning.topology.policy, topology::Policy::SingleNumaNode);
        assert_eq!(pinning.topology.scope, topology::Scope::Pod);
        let default = read("{}").expect("defaults").pinning;
        assert!(!default.cpu.exclusive && !default.memory.pinned);
        assert_eq!(default.period.as_secs(), 10);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rows = [
            (
                "cpuManagerPolicy: dynamic",
                "cpuManagerPolicy: unknown policy: \"dynamic\"",
            ),
            (
                "reservedSystemCPUs: 3-1",
                "reservedSystemCPUs: unable to parse \"3-1\"",
            ),
            (
                "cpuManagerPolicyOptions: {full-pcpus-only: 'true'}",
                "received unsupported options for policy \"none\"",
            ),
            (
                "{cpuManagerPolicy: static, cpuManagerPolicyOptions: {fast: 'true'}}",
                "unknown CPU Manager Policy option: \"fast\"",
            ),
            (
                "{cpuManagerPolicy: static, cpuManagerPolicyOptions: {distribute-cpus-across-cores: 'true'}}",
                "is not supported; there are full-pcpus-only",
            ),
            (
                "{cpuManagerPolicy: static, cpuManagerPolicyOptions: {align-by-socket: 'true'}, topologyManagerPolicy: single-numa-node}",
                "incompatible",
            ),
            (
                "{cpuManagerPolicy: static, cpuManagerPolicyOptions: {full-pcpus-only: 'on'}}",
                "bad value for option \"full-pcpus-only\"",
            ),
            ("cpuManagerReconcilePeriod: 0s", "cpuManagerReconcilePeriod"),
            (
                "memoryManagerPolicy: static",
                "memoryManagerPolicy: unknown policy: \"static\"",
            ),
            (
                "reservedMemory: [{numaNode: 0, limits: {cpu: 1}}]",
                "reservedMemory[0]",
            ),
            (
                "reservedMemory: [{numaNode: 0, limits: {memory: 0}}]",
                "reservedMemory[0]",
            ),
            (
                "reservedMemory: [{numaNode: 0, limits: {memory: 1Gi}}, {numaNode: 0, limits: {memory: 1Gi}}]",
                "reservedMemory[1]: the reserved memory has a duplicate value for NUMA node 0",
            ),
            ("topologyManagerScope: node", "topologyManagerScope"),
        ];
        for (text, want) in rows {
            let error = format!("{:#}", read(text).err().expect(text));
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
