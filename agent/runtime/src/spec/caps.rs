//! Capabilities of a container's process.

use std::collections::HashSet;
use std::str::FromStr;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use crate::error::Error;
use crate::model::Security;

/// What docker and containerd leave an unprivileged container.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// All capabilities in the kernel's numbering (linux/capability.h): bit n of a mask is entry n.
const NUMBERED: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The set a container gets. `available` is the mask of what this machine has to give: runc fails
/// on anything beyond. `ALL` is applied first, single ones after it, as upstream does.
pub(super) fn granted(security: &Security, available: u64) -> Result<Capabilities, Error> {
    let numbered = NUMBERED.iter().enumerate();
    let possible = numbered.filter(|(bit, _)| available >> bit & 1 == 1);
    let possible: HashSet<Capability> = possible.map(|(_, capability)| *capability).collect();
    if security.privileged {
        return Ok(possible);
    }
    let all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mut set: HashSet<Capability> = match (all(&security.cap_add), all(&security.cap_drop)) {
        (_, true) => HashSet::new(),
        (true, false) => possible.clone(),
        (false, false) => DEFAULT.into(),
    };
    if all(&security.cap_drop) && all(&security.cap_add) {
        set.extend(possible.iter().copied());
    }
    for name in &security.cap_add {
        set.extend(parse(name)?);
    }
    for name in &security.cap_drop {
        if let Some(capability) = parse(name)? {
            set.remove(&capability);
        }
    }
    set.retain(|capability| possible.contains(capability));
    Ok(set)
}

/// The OCI value: nothing inheritable or ambient (CVE-2022-24769).
pub(super) fn linux(set: &Capabilities) -> Result<LinuxCapabilities, Error> {
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set.clone())
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .map_err(super::unbuilt)
}

fn parse(name: &str) -> Result<Option<Capability>, Error> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(None);
    }
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    Capability::from_str(bare)
        .map(Some)
        .map_err(|_| Error::invalid("capability", name, "unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_and_drops_apply_to_the_default_set() {
        let all = (1 << 41) - 1;
        type Row = (
            &'static [&'static str],
            &'static [&'static str],
            usize,
            &'static [Capability],
        );
        let table: [Row; 6] = [
            (&[], &[], 14, &[Capability::Chown]),
            (&["NET_ADMIN"], &[], 15, &[Capability::NetAdmin]),
            (
                &["cap_sys_time"],
                &["CAP_CHOWN"],
                14,
                &[Capability::SysTime],
            ),
            (&[], &["ALL"], 0, &[]),
            (
                &["NET_BIND_SERVICE"],
                &["all"],
                1,
                &[Capability::NetBindService],
            ),
            (&["ALL"], &["SYS_ADMIN"], 40, &[Capability::Bpf]),
        ];
        for (add, drop, count, has) in table {
            let security = Security {
                cap_add: add.iter().map(ToString::to_string).collect(),
                cap_drop: drop.iter().map(ToString::to_string).collect(),
                ..Security::default()
            };
            let set = granted(&security, all).expect("valid");
            assert_eq!(set.len(), count, "{add:?} {drop:?}");
            assert!(has.iter().all(|capability| set.contains(capability)));
        }
        let unknown = Security {
            cap_add: vec!["FLY".into()],
            ..Security::default()
        };
        assert!(granted(&unknown, all).is_err());
    }

    #[test]
    fn nothing_is_given_that_the_machine_has_not() {
        let without_resource = ((1 << 41) - 1) & !(1 << 24);
        let privileged = Security {
            privileged: true,
            ..Security::default()
        };
        let set = granted(&privileged, without_resource).expect("valid");
        assert_eq!(set.len(), 40);
        assert!(!set.contains(&Capability::SysResource));
    }
}
