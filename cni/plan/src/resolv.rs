//! DNS settings out of a file in resolv.conf's form.

use crate::result::Dns;

/// Reads what a result can tell; all else is passed over, as resolvers do.
pub fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next().unwrap_or_default(),
            Some("search") => dns.search.extend(words),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_words_and_nothing_else() {
        let text = "# a comment\nnameserver 10.0.0.53\nnameserver fd00::53 # x\n;no\ndomain a.example\n\
            search a.example b.example\noptions ndots:5 edns0\nsortlist 10.0.0.0\nnameserver\n";
        let dns = parse(text);
        assert_eq!(dns.nameservers, ["10.0.0.53", "fd00::53"]);
        assert_eq!(dns.domain, "a.example");
        assert_eq!(dns.search, ["a.example", "b.example"]);
        assert_eq!(dns.options, ["ndots:5", "edns0"]);
        assert_eq!(parse(""), Dns::default());
    }
}
