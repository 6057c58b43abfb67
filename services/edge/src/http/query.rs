//! Query parameters (`application/x-www-form-urlencoded`).

/// Reads the parameters in order. What is not valid percent-encoding stays as it is; bytes that
/// are not UTF-8 become U+FFFD.
pub fn parse_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%')
            .then(|| Some(hex(*bytes.get(at + 1)?)? << 4 | hex(*bytes.get(at + 2)?)?))
            .flatten();
        match escaped {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_kept_in_order_and_decoded() {
        let pairs = parse_query("room=M%C3%BCnchen+1&prefix=&token&&a=%zz&b=%4&room=x%2By");
        let expected = [
            ("room", "München 1"),
            ("prefix", ""),
            ("token", ""),
            ("a", "%zz"),
            ("b", "%4"),
            ("room", "x+y"),
        ];
        assert_eq!(pairs, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(parse_query(""), []);
        assert_eq!(
            parse_query("x=%ff"),
            [("x".to_owned(), "\u{fffd}".to_owned())]
        );
    }
}
