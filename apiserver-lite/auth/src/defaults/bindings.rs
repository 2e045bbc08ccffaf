//! Who has which of the default roles.

/// ClusterRoleBindings: name, role, subjects.
pub(super) const CLUSTER: &[(&str, &str, &[&str])] = &[
    ("cluster-admin", "cluster-admin", &["Group:system:masters"]),
    (
        "system:monitoring",
        "system:monitoring",
        &["Group:system:monitoring"],
    ),
    (
        "system:discovery",
        "system:discovery",
        &["Group:system:authenticated"],
    ),
    (
        "system:basic-user",
        "system:basic-user",
        &["Group:system:authenticated"],
    ),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        &["Group:system:authenticated", "Group:system:unauthenticated"],
    ),
    (
        "system:node-proxier",
        "system:node-proxier",
        &["User:system:kube-proxy"],
    ),
    (
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        &["User:system:kube-controller-manager"],
    ),
    (
        "system:kube-dns",
        "system:kube-dns",
        &["ServiceAccount:kube-system:kube-dns"],
    ),
    (
        "system:kube-scheduler",
        "system:kube-scheduler",
        &["User:system:kube-scheduler"],
    ),
    (
        "system:volume-scheduler",
        "system:volume-scheduler",
        &["User:system:kube-scheduler"],
    ),
    // Bound to nobody, as upstream: the Node authorizer decides for nodes.
    ("system:node", "system:node", &[]),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &["Group:system:serviceaccounts"],
    ),
    (
        "system:cluster-trust-bundle-discovery",
        "system:cluster-trust-bundle-discovery",
        &["Group:system:serviceaccounts"],
    ),
    // What an installer adds: nodes join by bootstrap token and renew by themselves.
    (
        "keelson:node-bootstrapper",
        "system:node-bootstrapper",
        &["Group:system:bootstrappers"],
    ),
    (
        "keelson:node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["Group:system:bootstrappers"],
    ),
    (
        "keelson:node-autoapprove-renewal",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["Group:system:nodes"],
    ),
    // The server's own node proxies as kube-proxy, one that joined as itself.
    (
        "keelson:network-policy",
        "keelson:network-policy",
        &["User:system:kube-proxy", "Group:system:nodes"],
    ),
    (
        "keelson:kube-apiserver-to-kubelet",
        "system:kubelet-api-admin",
        &["User:kube-apiserver-kubelet-client"],
    ),
];

/// Roles with their bindings of the same name: namespace, name, rules, subjects.
pub(super) const NAMESPACED: &[(&str, &str, &[&str], &[&str])] = &[
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &["get,list,watch core configmaps extension-apiserver-authentication"],
        &[],
    ),
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        &["get,list,watch core configmaps extension-apiserver-authentication"],
        &[
            "User:system:kube-controller-manager",
            "User:system:kube-scheduler",
        ],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        &["get,list,watch core secrets"],
        &["ServiceAccount:kube-system:bootstrap-signer"],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        &[
            "delete,get,list,watch core secrets",
            "create,patch,update core,events.k8s.io events",
        ],
        &["ServiceAccount:kube-system:token-cleaner"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        &[
            "get,update core configmaps kube-controller-manager",
            "create core configmaps",
        ],
        &[
            "User:system:kube-controller-manager",
            "ServiceAccount:kube-system:kube-controller-manager",
        ],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        &[
            "get,update core configmaps kube-scheduler",
            "create core configmaps",
        ],
        &[
            "User:system:kube-scheduler",
            "ServiceAccount:kube-system:kube-scheduler",
        ],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &[
            "get,list,watch core configmaps",
            "update core configmaps cluster-info",
            "create,patch,update core events",
        ],
        &["ServiceAccount:kube-system:bootstrap-signer"],
    ),
];
