//! `$(NAME)` references. Source: the API's description of `command`, `args` and `env[].value`.

/// Replaces `$(NAME)` by its value; `$$` is one dollar; what is unknown stays as it was written.
pub fn expand(text: &str, find: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let after = &tail[1..];
        if let Some(next) = after.strip_prefix('$') {
            out.push('$');
            rest = next;
        } else if let Some((name, next)) = after.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match find(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&tail[..name.len() + 3]),
            }
            rest = next;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let find = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            "LOOP" => Some("$(A)".to_owned()),
            _ => None,
        };
        let rows = [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(EMPTY)", ""),
            ("$(LOOP)", "$(A)"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$", "$"),
            ("$()", "$()"),
            ("a$", "a$"),
        ];
        for (text, want) in rows {
            assert_eq!(expand(text, &find), want, "{text}");
        }
    }
}
