//! The query of an address, as the WHATWG URL standard has it (application/x-www-form-urlencoded). Pure.

/// The first value of this name, decoded; `None` if there is none. Bytes that are no UTF-8 are replaced.
pub(super) fn value_of(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| decoded(key) == name).map(|(_, value)| decoded(value))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'+', _) => (b' ', after),
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', &rest[1..]),
            },
            _ => (*first, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_decoded() {
        for (query, value) in [
            ("address=192.0.2.7", Some("192.0.2.7")),
            ("x=1&address=2001%3adb8%3A%3a7&address=1", Some("2001:db8::7")),
            ("address=+1%20", Some(" 1 ")),
            ("%61ddress=1", Some("1")),
            ("address=%4", Some("%4")),
            ("address=%zz%", Some("%zz%")),
            ("address=%ff", Some("\u{fffd}")),
            ("address", Some("")),
            ("", None),
            ("addresses=1", None),
        ] {
            assert_eq!(value_of(query, "address").as_deref(), value, "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_taken(query in ".{0,60}") {
            let _ = value_of(&query, "address");
        }
    }
}
