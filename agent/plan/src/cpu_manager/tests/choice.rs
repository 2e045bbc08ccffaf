//! Which CPUs are chosen.

use super::super::{distribute, take};
use super::world::*;

#[test]
fn packed() {
    let too_few = |asked: usize, free: usize| take::too_few(asked, free);
    let rows = [
        ("nothing", threads(), "0-7", 0, String::new()),
        ("a thread", threads(), "0-7", 1, "0".into()),
        ("a core", threads(), "0-7", 2, "0,4".into()),
        ("a core and a thread", threads(), "0-7", 3, "0-1,4".into()),
        ("all", threads(), "0-7", 8, "0-7".into()),
        ("too many", threads(), "0-7", 9, too_few(9, 8)),
        ("too many now", threads(), "1,5", 3, too_few(3, 2)),
        ("the half core first", threads(), "1-7", 1, "4".into()),
        (
            "a whole core before halves",
            threads(),
            "1-7",
            2,
            "1,5".into(),
        ),
        (
            "a whole core, then the half",
            threads(),
            "1-7",
            3,
            "1,4-5".into(),
        ),
        (
            "halves where there is nothing else",
            threads(),
            "1-3",
            2,
            "1-2".into(),
        ),
        ("a socket", sockets(), "0-7", 4, "0-1,4-5".into()),
        ("a socket and a core", sockets(), "0-7", 6, "0-2,4-6".into()),
        (
            "the socket that is whole",
            sockets(),
            "1-7",
            4,
            "2-3,6-7".into(),
        ),
        (
            "the fuller socket's core",
            sockets(),
            "1-7",
            2,
            "1,5".into(),
        ),
        (
            "the fuller socket's half core",
            sockets(),
            "1-7",
            1,
            "4".into(),
        ),
        ("over both sockets", sockets(), "1-7", 5, "2-4,6-7".into()),
        ("a socket of two nodes", nodes(), "0-7", 4, "0-3".into()),
        ("a node", nodes(), "0-7", 2, "0-1".into()),
        ("the whole socket", nodes(), "1-7", 4, "4-7".into()),
        (
            "the whole node in the fuller socket",
            nodes(),
            "1-7",
            2,
            "2-3".into(),
        ),
        (
            "the fuller socket to its end",
            nodes(),
            "1-7",
            3,
            "1-3".into(),
        ),
        (
            "a socket and a core beside",
            nodes(),
            "0-7",
            5,
            "0-4".into(),
        ),
    ];
    for (name, machine, free, count, want) in rows {
        assert_eq!(
            shown(take::packed(&machine, &set(free), count)),
            want,
            "{name}"
        );
    }
}

#[test]
fn distributed() {
    let rows = [
        ("one node is enough", wide(), "0-15", 4, 1, "0-3"),
        ("two give evenly", wide(), "0-15", 6, 1, "0-2,4-6"),
        ("two whole ones", wide(), "0-15", 8, 1, "0-7"),
        ("three and one more", wide(), "0-15", 10, 1, "0-6,8-10"),
        ("one that can alone", wide(), "0-5,8-9", 4, 1, "0-3"),
        (
            "the two that leave it even",
            wide(),
            "0-2,4-5,8-9",
            4,
            1,
            "0-1,4-5",
        ),
        (
            "what does not divide",
            wide(),
            "0-2,4-5,8-9",
            5,
            1,
            "0-2,4-5",
        ),
        (
            "packed where nobody can give evenly",
            wide(),
            "0,4-8",
            6,
            1,
            "0,4-8",
        ),
        ("cores", sockets(), "0-7", 4, 2, "0-1,4-5"),
        ("cores of both sockets", sockets(), "0-7", 6, 2, "0-2,4-6"),
        ("threads of both sockets", sockets(), "0-7", 6, 1, "0-4,6"),
        (
            "what is no whole core is packed",
            sockets(),
            "0-7",
            3,
            2,
            "0-1,4",
        ),
        ("nodes in a socket", nodes(), "0-7", 4, 1, "0-3"),
        ("nothing", nodes(), "0-7", 0, 1, ""),
    ];
    for (name, machine, free, count, group, want) in rows {
        let got = distribute::distributed(&machine, &set(free), count, group);
        assert_eq!(shown(got), want, "{name}");
    }
    let got = distribute::distributed(&wide(), &set("0-3"), 5, 1);
    assert_eq!(shown(got), take::too_few(5, 4));
}
