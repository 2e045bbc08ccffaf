//! The fields of the messages that are read, by number.

use super::Field;
use super::Form::{
    BytesMap, Flag, Int, IntOrText, Many, One, Text, TextMap, Texts, TextsMap, Time,
};

const OWNER: &[Field] = &[
    (1, "kind", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "controller", Flag),
    (7, "blockOwnerDeletion", Flag),
];
const META: &[Field] = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Int),
    (8, "creationTimestamp", Time),
    (9, "deletionTimestamp", Time),
    (10, "deletionGracePeriodSeconds", Int),
    (11, "labels", TextMap),
    (12, "annotations", TextMap),
    (13, "ownerReferences", Many(OWNER)),
    (14, "finalizers", Texts),
];
const PRECONDITIONS: &[Field] = &[(1, "uid", Text), (2, "resourceVersion", Text)];
const DELETE_OPTIONS: &[Field] = &[
    (1, "gracePeriodSeconds", Int),
    (2, "preconditions", One(PRECONDITIONS)),
    (3, "orphanDependents", Flag),
    (4, "propagationPolicy", Text),
    (5, "dryRun", Texts),
];
const REFERENCE: &[Field] = &[
    (1, "kind", Text),
    (2, "namespace", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "resourceVersion", Text),
    (7, "fieldPath", Text),
];
const LOCAL_REFERENCE: &[Field] = &[(1, "name", Text)];
const RESOURCE: &[Field] = &[
    (1, "namespace", Text),
    (2, "verb", Text),
    (3, "group", Text),
    (4, "version", Text),
    (5, "resource", Text),
    (6, "subresource", Text),
    (7, "name", Text),
];
const PATH: &[Field] = &[(1, "path", Text), (2, "verb", Text)];
const SELF_ACCESS: &[Field] = &[
    (1, "resourceAttributes", One(RESOURCE)),
    (2, "nonResourceAttributes", One(PATH)),
];
const ACCESS: &[Field] = &[
    (1, "resourceAttributes", One(RESOURCE)),
    (2, "nonResourceAttributes", One(PATH)),
    (3, "user", Text),
    (4, "groups", Texts),
    (5, "extra", TextsMap),
    (6, "uid", Text),
];
const BOUND: &[Field] = &[
    (1, "kind", Text),
    (2, "apiVersion", Text),
    (3, "name", Text),
    (4, "uid", Text),
];

const SELECTOR: &[Field] = &[
    (1, "matchLabels", TextMap),
    (
        2,
        "matchExpressions",
        Many(&[
            (1, "key", Text),
            (2, "operator", Text),
            (3, "values", Texts),
        ]),
    ),
];
const PORT: &[Field] = &[
    (1, "name", Text),
    (2, "hostPort", Int),
    (3, "containerPort", Int),
    (4, "protocol", Text),
    (5, "hostIP", Text),
];
const CONTAINER: &[Field] = &[
    (1, "name", Text),
    (2, "image", Text),
    (3, "command", Texts),
    (4, "args", Texts),
    (5, "workingDir", Text),
    (6, "ports", Many(PORT)),
    (7, "env", Many(&[(1, "name", Text), (2, "value", Text)])),
    (13, "terminationMessagePath", Text),
    (14, "imagePullPolicy", Text),
    (16, "stdin", Flag),
    (17, "stdinOnce", Flag),
    (18, "tty", Flag),
    (20, "terminationMessagePolicy", Text),
];
const POD: &[Field] = &[
    (2, "containers", Many(CONTAINER)),
    (3, "restartPolicy", Text),
    (4, "terminationGracePeriodSeconds", Int),
    (5, "activeDeadlineSeconds", Int),
    (6, "dnsPolicy", Text),
    (7, "nodeSelector", TextMap),
    (8, "serviceAccountName", Text),
    (10, "nodeName", Text),
    (11, "hostNetwork", Flag),
    (12, "hostPID", Flag),
    (13, "hostIPC", Flag),
    (15, "imagePullSecrets", Many(LOCAL_REFERENCE)),
    (16, "hostname", Text),
    (17, "subdomain", Text),
    (19, "schedulerName", Text),
    (20, "initContainers", Many(CONTAINER)),
];
const DEPLOYMENT: &[Field] = &[
    (1, "replicas", Int),
    (2, "selector", One(SELECTOR)),
    (
        3,
        "template",
        One(&[(1, "metadata", One(META)), (2, "spec", One(POD))]),
    ),
    (5, "minReadySeconds", Int),
    (6, "revisionHistoryLimit", Int),
    (7, "paused", Flag),
    (9, "progressDeadlineSeconds", Int),
];
const SERVICE_PORT: &[Field] = &[
    (1, "name", Text),
    (2, "protocol", Text),
    (3, "port", Int),
    (4, "targetPort", IntOrText),
    (5, "nodePort", Int),
    (6, "appProtocol", Text),
];
const SERVICE: &[Field] = &[
    (1, "ports", Many(SERVICE_PORT)),
    (2, "selector", TextMap),
    (3, "clusterIP", Text),
    (4, "type", Text),
    (5, "externalIPs", Texts),
    (7, "sessionAffinity", Text),
    (10, "externalName", Text),
];
const RULE: &[Field] = &[
    (1, "verbs", Texts),
    (2, "apiGroups", Texts),
    (3, "resources", Texts),
    (4, "resourceNames", Texts),
    (5, "nonResourceURLs", Texts),
];
const SUBJECT: &[Field] = &[
    (1, "kind", Text),
    (2, "apiGroup", Text),
    (3, "name", Text),
    (4, "namespace", Text),
];
const ROLE_REF: &[Field] = &[(1, "apiGroup", Text), (2, "kind", Text), (3, "name", Text)];
const ROLE: &[Field] = &[(1, "metadata", One(META)), (2, "rules", Many(RULE))];
const BINDING: &[Field] = &[
    (1, "metadata", One(META)),
    (2, "subjects", Many(SUBJECT)),
    (3, "roleRef", One(ROLE_REF)),
];

/// Kinds by `apiVersion` and `kind`. The statuses that clients leave empty are not in the table.
pub(super) const KINDS: &[(&str, &str, &[Field])] = &[
    (
        "v1",
        "ConfigMap",
        &[
            (1, "metadata", One(META)),
            (2, "data", TextMap),
            (3, "binaryData", BytesMap),
            (4, "immutable", Flag),
        ],
    ),
    (
        "v1",
        "Secret",
        &[
            (1, "metadata", One(META)),
            (2, "data", BytesMap),
            (3, "type", Text),
            (4, "stringData", TextMap),
            (5, "immutable", Flag),
        ],
    ),
    (
        "v1",
        "Namespace",
        &[
            (1, "metadata", One(META)),
            (2, "spec", One(&[(1, "finalizers", Texts)])),
        ],
    ),
    (
        "v1",
        "ServiceAccount",
        &[
            (1, "metadata", One(META)),
            (2, "secrets", Many(REFERENCE)),
            (3, "imagePullSecrets", Many(LOCAL_REFERENCE)),
            (4, "automountServiceAccountToken", Flag),
        ],
    ),
    (
        "v1",
        "Binding",
        &[(1, "metadata", One(META)), (2, "target", One(REFERENCE))],
    ),
    ("", "DeleteOptions", DELETE_OPTIONS),
    (
        "policy/v1",
        "Eviction",
        &[
            (1, "metadata", One(META)),
            (2, "deleteOptions", One(DELETE_OPTIONS)),
        ],
    ),
    (
        "authentication.k8s.io/v1",
        "TokenRequest",
        &[
            (1, "metadata", One(META)),
            (
                2,
                "spec",
                One(&[
                    (1, "audiences", Texts),
                    (3, "boundObjectRef", One(BOUND)),
                    (4, "expirationSeconds", Int),
                ]),
            ),
        ],
    ),
    (
        "authentication.k8s.io/v1",
        "TokenReview",
        &[
            (1, "metadata", One(META)),
            (
                2,
                "spec",
                One(&[(1, "token", Text), (2, "audiences", Texts)]),
            ),
        ],
    ),
    (
        "authentication.k8s.io/v1",
        "SelfSubjectReview",
        &[(1, "metadata", One(META))],
    ),
    (
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
        &[(1, "metadata", One(META)), (2, "spec", One(SELF_ACCESS))],
    ),
    (
        "authorization.k8s.io/v1",
        "SubjectAccessReview",
        &[(1, "metadata", One(META)), (2, "spec", One(ACCESS))],
    ),
    (
        "authorization.k8s.io/v1",
        "LocalSubjectAccessReview",
        &[(1, "metadata", One(META)), (2, "spec", One(ACCESS))],
    ),
    (
        "authorization.k8s.io/v1",
        "SelfSubjectRulesReview",
        &[
            (1, "metadata", One(META)),
            (2, "spec", One(&[(1, "namespace", Text)])),
        ],
    ),
    (
        "v1",
        "Service",
        &[(1, "metadata", One(META)), (2, "spec", One(SERVICE))],
    ),
    (
        "apps/v1",
        "Deployment",
        &[(1, "metadata", One(META)), (2, "spec", One(DEPLOYMENT))],
    ),
    ("rbac.authorization.k8s.io/v1", "Role", ROLE),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", ROLE),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", BINDING),
    (
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        BINDING,
    ),
];
