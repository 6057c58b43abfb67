//! Mutations, the same for the same seed.

/// A small generator (splitmix64): reproducible on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % (bound.max(1) as u64)) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let at = self.below(from.len());
        from.get(at)
    }
}

/// Pieces of streams.
pub const XML: &[&str] = &[
    "<message>",
    "</message>",
    "<iq type='get' id='1'>",
    "</iq>",
    "<presence/>",
    "<a/>",
    "<p:a/>",
    "<body>",
    "</body>",
    " xmlns='urn:x'",
    " xmlns:p='urn:p'",
    " xmlns=''",
    " xmlns:p=''",
    " p:a='1'",
    " a='1'",
    " a=\"2\"",
    " xml:lang='de'",
    " to='a@b/c'",
    " from='x'",
    "/>",
    ">",
    "<",
    "</",
    "&amp;",
    "&#x41;",
    "&#0;",
    "&#xFFFE;",
    "&foo;",
    "&",
    "]]>",
    "<![CDATA[",
    "<!--",
    "-->",
    "<?",
    "?>",
    "<!DOCTYPE a>",
    "\u{FFFE}",
    "\u{FFFF}",
    "\u{FEFF}",
    "é",
    "😀",
    "\0",
    "\r\n",
    "\t",
    " ",
    "\n",
    "'",
    "\"",
    "=",
    ":",
    "xmlns",
    "xmlns:xml='http://www.w3.org/XML/1998/namespace'",
    "</stream:stream>",
    "<r xmlns='urn:xmpp:sm:3'/>",
    "<a xmlns='urn:xmpp:sm:3' h='1'/>",
    "<?xml version='1.0'?>",
    "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' version='1.0'/>\n",
    "<message xmlns='jabber:client'/>\n",
    "<stream:stream version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>",
];

/// Pieces of addresses.
pub const JID: &[&str] = &[
    "@",
    "/",
    ".",
    "..",
    "a",
    "A",
    "ß",
    "ſ",
    "Ⅳ",
    "\u{AD}",
    "\u{200D}",
    "\u{3002}",
    "xn--",
    "xn--bcher-kva",
    "[::1]",
    "127.0.0.1",
    " ",
    "&",
    "\"",
    "\u{0}",
    "\u{5D0}",
    "\u{660}",
    "\u{1F600}",
    "\u{FB01}",
    "-",
];

/// Pieces of SASL messages.
pub const SASL: &[&str] = &[
    "n,,",
    "y,,",
    "p=tls-exporter,,",
    "p=tls-unique,,",
    "n,a=user,",
    "n=user",
    "r=abc",
    "c=biws",
    "p=",
    "m=x",
    "=2C",
    "=3D",
    "=",
    ",",
    "\n",
    "\0",
    "i=4096",
    "s=",
    "AAAA",
    "====",
    "ü",
    "fyko+d2lbbFgONRv9qkxdawL",
    "3rfcNHYJY1ZVvWVs7j",
];

/// Pieces of base64url.
pub const TOKEN: &[&str] = &["A", "-", "_", "=", "+", "/", "AAAA", "a@b", "\u{0}"];

const LONGEST: usize = 4096;

/// A mutant of one input, perhaps crossed with another one.
pub fn mutate(rng: &mut Rng, corpus: &[Vec<u8>], dictionary: &[&str]) -> Vec<u8> {
    let mut data = rng.pick(corpus).cloned().unwrap_or_default();
    for _ in 0..=rng.below(6) {
        step(rng, &mut data, corpus, dictionary);
    }
    data.truncate(LONGEST);
    data
}

fn step(rng: &mut Rng, data: &mut Vec<u8>, corpus: &[Vec<u8>], dictionary: &[&str]) {
    let at = rng.below(data.len() + 1);
    match rng.below(9) {
        0 => {
            if let Some(byte) = data.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        1 => {
            if let Some(byte) = data.get_mut(at) {
                *byte = rng.next_u64() as u8;
            }
        }
        2 => data.truncate(at),
        3 => {
            let end = (at + rng.below(16)).min(data.len());
            data.drain(at..end);
        }
        4 => {
            // Something from elsewhere in it, again.
            let from = rng.below(data.len() + 1);
            let end = (from + rng.below(48)).min(data.len());
            let piece = data[from..end].to_vec();
            data.splice(at..at, piece);
        }
        5 => {
            // The tail of another input.
            if let Some(other) = rng.pick(corpus) {
                let from = rng.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
        }
        6 => {
            let end = (at + rng.below(8)).min(data.len());
            if let Some(token) = rng.pick(dictionary) {
                data.splice(at..end, token.bytes());
            }
        }
        _ => {
            if let Some(token) = rng.pick(dictionary) {
                data.splice(at..at, token.bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_mutants() {
        let corpus = [b"<a b='c'>d</a>".to_vec(), b"<e/>".to_vec()];
        let mutants = |seed| {
            let mut rng = Rng::new(seed);
            (0..50)
                .map(|_| mutate(&mut rng, &corpus, XML))
                .collect::<Vec<_>>()
        };
        assert_eq!(mutants(1), mutants(1));
        assert_ne!(mutants(1), mutants(2));
    }
}
