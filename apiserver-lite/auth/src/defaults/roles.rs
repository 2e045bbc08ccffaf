//! ClusterRoles, as tables. Facts of upstream's bootstrap policy.

use super::Row;

/// Roles that stand alone.
pub(super) const CLUSTER: &[Row] = &[
    ("cluster-admin", &["* * *", "* *"]),
    (
        "system:discovery",
        &[
            "get /healthz,/version,/version/,/openapi,/openapi/*,/api,/api/*,/apis,/apis/*,/livez,/readyz",
        ],
    ),
    (
        "system:basic-user",
        &[
            "create authorization.k8s.io selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create authentication.k8s.io selfsubjectreviews",
        ],
    ),
    (
        "system:public-info-viewer",
        &["get /healthz,/livez,/readyz,/version,/version/"],
    ),
    (
        "system:monitoring",
        &["get /metrics,/metrics/slis,/livez,/livez/*,/readyz,/readyz/*,/healthz,/healthz/*"],
    ),
    (
        "system:service-account-issuer-discovery",
        &["get /.well-known/openid-configuration,/openid/v1/jwks"],
    ),
    (
        "system:cluster-trust-bundle-discovery",
        &["get,list,watch certificates.k8s.io clustertrustbundles"],
    ),
    (
        "system:auth-delegator",
        &[
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews",
        ],
    ),
    (
        "system:heapster",
        &[
            "get,list,watch core events,pods,nodes,namespaces",
            "get,list,watch extensions deployments",
        ],
    ),
    ("system:node", &NODE),
    (
        "system:node-problem-detector",
        &[
            "get core nodes",
            "patch core nodes/status",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    (
        "system:node-proxier",
        &[
            "list,watch core services,endpoints",
            "get,list,watch core nodes",
            "create,patch,update core,events.k8s.io events",
            "list,watch discovery.k8s.io endpointslices",
            "list,watch networking.k8s.io servicecidrs",
        ],
    ),
    // Whoever enforces NetworkPolicies on a node: pods of all nodes may be named in them.
    (
        "keelson:network-policy",
        &[
            "get,list,watch networking.k8s.io networkpolicies",
            "get,list,watch core pods,namespaces",
        ],
    ),
    (
        "system:node-bootstrapper",
        &["create,get,list,watch certificates.k8s.io certificatesigningrequests"],
    ),
    (
        "system:kubelet-api-admin",
        &[
            "get,list,watch core nodes",
            "proxy core nodes",
            "* core nodes/proxy,nodes/metrics,nodes/stats,nodes/log,nodes/spec,nodes/healthz,nodes/configz,nodes/pods,nodes/checkpoint",
        ],
    ),
    (
        "system:persistent-volume-provisioner",
        &[
            "get,list,watch,create,delete core persistentvolumes",
            "get,list,watch,update core persistentvolumeclaims",
            "get,list,watch storage.k8s.io storageclasses",
            "watch,create,update,patch core events",
        ],
    ),
    ("system:kube-dns", &["list,watch core endpoints,services"]),
    (
        "system:kube-scheduler",
        &[
            "create,patch,update core,events.k8s.io events",
            "create coordination.k8s.io leases",
            "get,list,update,watch,patch coordination.k8s.io leases",
            "get,list,watch core nodes",
            "delete,get,list,watch core pods",
            "create core bindings,pods/binding",
            "patch,update core pods/status",
            "get,list,watch core replicationcontrollers,services,namespaces",
            "get,list,watch apps,extensions replicasets",
            "get,list,watch apps statefulsets",
            "get,list,watch policy poddisruptionbudgets",
            "get,list,watch core persistentvolumeclaims,persistentvolumes",
            "update,patch core persistentvolumeclaims,persistentvolumes",
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews",
            "get,list,watch storage.k8s.io csinodes,csidrivers,csistoragecapacities,storageclasses,volumeattachments",
            "get,list,watch scheduling.k8s.io priorityclasses",
        ],
    ),
    (
        "system:volume-scheduler",
        &[
            "get,list,patch,update,watch core persistentvolumes",
            "get,list,watch storage.k8s.io storageclasses",
            "get,list,patch,update,watch core persistentvolumeclaims",
        ],
    ),
    (
        "system:kube-controller-manager",
        &[
            "create,patch,update core,events.k8s.io events",
            "create,get,list,update,watch,patch coordination.k8s.io leases",
            "create core secrets,serviceaccounts",
            "delete core secrets",
            "get core configmaps,namespaces,secrets,serviceaccounts",
            "update core secrets,serviceaccounts",
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews",
            "list,watch * *",
            "create core serviceaccounts/token",
        ],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["create certificates.k8s.io certificatesigningrequests/nodeclient"],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["create certificates.k8s.io certificatesigningrequests/selfnodeclient"],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &["approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client"],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &["approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client-kubelet"],
    ),
    (
        "system:certificates.k8s.io:kubelet-serving-approver",
        &["approve certificates.k8s.io signers kubernetes.io/kubelet-serving"],
    ),
    (
        "system:certificates.k8s.io:legacy-unknown-approver",
        &["approve certificates.k8s.io signers kubernetes.io/legacy-unknown"],
    ),
];

/// For nodes that are authorized by RBAC instead of the Node authorizer; bound to nobody.
const NODE: [&str; 21] = [
    "create authentication.k8s.io tokenreviews",
    "create authorization.k8s.io localsubjectaccessreviews,subjectaccessreviews",
    "get,list,watch core services",
    "create,get,list,watch core nodes",
    "patch,update core nodes/status",
    "patch,update core nodes",
    "create,patch,update core,events.k8s.io events",
    "get,list,watch core pods",
    "create,delete core pods",
    "patch,update core pods/status",
    "create core pods/eviction",
    "get,list,watch core configmaps,secrets",
    "get core persistentvolumeclaims,persistentvolumes",
    "get core endpoints",
    "create,get,list,watch certificates.k8s.io certificatesigningrequests",
    "get,list,watch certificates.k8s.io clustertrustbundles",
    "create,delete,get,patch,update coordination.k8s.io leases",
    "get storage.k8s.io volumeattachments",
    "create core serviceaccounts/token",
    "get,list,watch storage.k8s.io csidrivers",
    "create,delete,get,patch,update storage.k8s.io csinodes",
];

/// The aggregated roles, and into which of the others each goes itself.
pub(super) const AGGREGATES: &[(&str, Option<&str>)] = &[
    ("admin", None),
    ("edit", Some("admin")),
    ("view", Some("edit")),
];

/// The parts of the aggregated roles: name, whose part, rules.
pub(super) const AGGREGATED_PARTS: &[(&str, &str, &[&str])] = &[
    (
        "system:aggregate-to-admin",
        "admin",
        &[
            "create authorization.k8s.io localsubjectaccessreviews",
            "create,delete,deletecollection,get,list,patch,update,watch rbac.authorization.k8s.io roles,rolebindings",
        ],
    ),
    (
        "system:aggregate-to-edit",
        "edit",
        &[
            "get,list,watch core pods/attach,pods/proxy,pods/exec,pods/portforward,secrets,services/proxy",
            "impersonate core serviceaccounts",
            "create,delete,deletecollection,patch,update core pods,pods/attach,pods/exec,pods/portforward,pods/proxy",
            "create core pods/eviction",
            "create,delete,deletecollection,patch,update core configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy",
            "create core serviceaccounts/token",
            "create,delete,deletecollection,patch,update apps daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale",
            "create,delete,deletecollection,patch,update autoscaling horizontalpodautoscalers",
            "create,delete,deletecollection,patch,update batch cronjobs,jobs",
            "create,delete,deletecollection,patch,update extensions daemonsets,deployments,deployments/rollback,deployments/scale,ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale",
            "create,delete,deletecollection,patch,update policy poddisruptionbudgets",
            "create,delete,deletecollection,patch,update networking.k8s.io ingresses,networkpolicies",
            "create,delete,deletecollection,get,list,patch,update,watch coordination.k8s.io leases",
        ],
    ),
    (
        "system:aggregated-metrics-reader",
        "view",
        &["get,list,watch metrics.k8s.io nodes,pods"],
    ),
    (
        "system:aggregate-to-view",
        "view",
        &[
            "get,list,watch core configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status",
            "get,list,watch core bindings,events,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status",
            "get,list,watch core namespaces",
            "get,list,watch discovery.k8s.io endpointslices",
            "get,list,watch apps controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status",
            "get,list,watch autoscaling horizontalpodautoscalers,horizontalpodautoscalers/status",
            "get,list,watch batch cronjobs,cronjobs/status,jobs,jobs/status",
            "get,list,watch extensions daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,replicasets/status,replicationcontrollers/scale",
            "get,list,watch policy poddisruptionbudgets,poddisruptionbudgets/status",
            "get,list,watch networking.k8s.io ingresses,ingresses/status,networkpolicies",
        ],
    ),
];
