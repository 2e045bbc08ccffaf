//! `system:controller:*`: what each controller needs, so that each can act as its own ServiceAccount in kube-system.

use super::Row;

/// A controller's name and rules.
pub(super) const CONTROLLERS: &[Row] = &[
    (
        "certificate-controller",
        &[
            "delete,get,list,watch certificates.k8s.io certificatesigningrequests",
            "update certificates.k8s.io certificatesigningrequests/approval,certificatesigningrequests/status",
            "approve,sign certificates.k8s.io signers kubernetes.io/kube-apiserver-client-kubelet,kubernetes.io/kubelet-serving",
            "sign certificates.k8s.io signers kubernetes.io/kube-apiserver-client,kubernetes.io/legacy-unknown",
            "create authorization.k8s.io subjectaccessreviews",
            "get,list,watch core nodes",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "clusterrole-aggregation-controller",
        &["escalate,get,list,patch,update,watch rbac.authorization.k8s.io clusterroles"],
    ),
    (
        "cronjob-controller",
        &[
            "get,list,update,watch batch cronjobs",
            "create,delete,get,list,patch,update,watch batch jobs",
            "update batch cronjobs/status",
            "update batch cronjobs/finalizers",
            "delete,list core pods",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "daemon-set-controller",
        &[
            "get,list,watch apps,extensions daemonsets",
            "update apps,extensions daemonsets/status",
            "update apps,extensions daemonsets/finalizers",
            "list,watch core nodes",
            "create,delete,list,patch,watch core pods",
            "create core pods/binding",
            "create,delete,get,list,patch,update,watch apps controllerrevisions",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "deployment-controller",
        &[
            "get,list,update,watch apps,extensions deployments",
            "update apps,extensions deployments/status",
            "update apps,extensions deployments/finalizers",
            "create,delete,get,list,patch,update,watch apps,extensions replicasets",
            "get,list,update,watch core pods",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "disruption-controller",
        &[
            "get,list,watch apps,extensions deployments",
            "get,list,watch apps,extensions replicasets",
            "get,list,watch core replicationcontrollers",
            "get,list,watch policy poddisruptionbudgets",
            "get,list,watch apps statefulsets",
            "patch,update policy poddisruptionbudgets/status",
            "get,list,watch core pods",
            "patch,update core pods/status",
            "get * */scale",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "endpoint-controller",
        &[
            "get,list,watch core pods,services",
            "create,delete,get,list,update core endpoints",
            "create core endpoints/restricted",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "endpointslice-controller",
        &[
            "get,list,watch core nodes,pods,services",
            "update core services/finalizers",
            "create,delete,get,list,update discovery.k8s.io endpointslices",
            "create discovery.k8s.io endpointslices/restricted",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            "get,list,watch core endpoints,services",
            "update core services/finalizers",
            "update core endpoints/finalizers",
            "create,delete,get,list,update discovery.k8s.io endpointslices",
            "create discovery.k8s.io endpointslices/restricted",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "generic-garbage-collector",
        &[
            "delete,get,list,patch,update,watch * *",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "job-controller",
        &[
            "get,list,patch,update,watch batch jobs",
            "patch,update batch jobs/status",
            "update batch jobs/finalizers",
            "create,delete,list,patch,watch core pods",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &[
            "get core configmaps kube-apiserver-legacy-service-account-token-tracking",
            "delete,patch core secrets",
        ],
    ),
    (
        "namespace-controller",
        &[
            "delete,get,list,watch core namespaces",
            "update core namespaces/finalize,namespaces/status",
            "delete,deletecollection,get,list * *",
        ],
    ),
    (
        "node-controller",
        &[
            "delete,get,list,patch,update core nodes",
            "patch,update core nodes/status",
            "patch,update core pods/status",
            "delete,get,list core pods",
            "get,list,watch coordination.k8s.io leases",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "pod-garbage-collector",
        &[
            "delete,list,watch core pods",
            "get,list core nodes",
            "patch core pods/status",
        ],
    ),
    (
        "pv-protection-controller",
        &[
            "get,list,update,watch core persistentvolumes",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "pvc-protection-controller",
        &[
            "get,list,update,watch core persistentvolumeclaims",
            "get,list,watch core pods",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "replicaset-controller",
        &[
            "get,list,update,watch apps,extensions replicasets",
            "update apps,extensions replicasets/status",
            "update apps,extensions replicasets/finalizers",
            "create,delete,list,patch,watch core pods",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "replication-controller",
        &[
            "get,list,update,watch core replicationcontrollers",
            "update core replicationcontrollers/status",
            "update core replicationcontrollers/finalizers",
            "create,delete,list,patch,watch core pods",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "resourcequota-controller",
        &[
            "list,watch * *",
            "update core resourcequotas/status",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "root-ca-cert-publisher",
        &[
            "create,update core configmaps",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "service-account-controller",
        &[
            "create core serviceaccounts",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "statefulset-controller",
        &[
            "list,watch core pods",
            "get,list,watch apps statefulsets",
            "update apps statefulsets/status",
            "update apps statefulsets/finalizers",
            "create,delete,get,patch,update core pods",
            "create,delete,get,list,patch,update,watch apps controllerrevisions",
            "create,delete,get,list,patch,update,watch core persistentvolumeclaims",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "ttl-after-finished-controller",
        &[
            "delete,get,list,watch batch jobs",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "ttl-controller",
        &[
            "list,patch,update,watch core nodes",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
];
