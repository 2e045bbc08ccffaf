//! Keys that stand twice in one JSON object. A parsed value has forgotten them, so the text is read once more.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// Duplicate fields of a JSON text, in upstream's words: `duplicate field "spec.replicas"`. A text that is not JSON has none.
#[must_use]
pub fn duplicate_fields(json: &[u8]) -> Vec<String> {
    let mut found = vec![];
    let mut reader = serde_json::Deserializer::from_slice(json);
    let walk = Walk {
        path: String::new(),
        found: &mut found,
    };
    // What is not JSON is refused elsewhere, with the parser's own words.
    let _ = walk.deserialize(&mut reader);
    found
}

struct Walk<'a> {
    path: String,
    found: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut at = 0;
        loop {
            let walk = Walk {
                path: format!("{}[{at}]", self.path),
                found: self.found,
            };
            if items.next_element_seed(walk)?.is_none() {
                return Ok(());
            }
            at += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let dot = if self.path.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{key}", self.path);
            if seen.insert(key) {
                map.next_value_seed(Walk {
                    path,
                    found: self.found,
                })?;
            } else {
                self.found.push(format!("duplicate field \"{path}\""));
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::duplicate_fields;

    #[test]
    fn paths() {
        let json = br#"{"a":1,"spec":{"x":1,"l":[{"y":1,"y":2}],"x":{"x":1}},"a":2,"n":null,"f":1.5,"m":-1}"#;
        assert_eq!(
            duplicate_fields(json),
            [
                r#"duplicate field "spec.l[0].y""#,
                r#"duplicate field "spec.x""#,
                r#"duplicate field "a""#
            ]
        );
        assert!(duplicate_fields(b"{").is_empty());
        assert!(duplicate_fields(br#"{"a":{"b":1},"c":{"b":1}}"#).is_empty());
    }
}
