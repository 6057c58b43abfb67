//! Cuts the bytes of an XML stream into its top-level elements without copying them.

use std::ops::Range;

use anyhow::{Result, bail};
use memchr::{memchr, memchr3, memmem};

/// A piece of the stream; ranges are positions in the caller's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The start tag of the stream.
    Open(Range<usize>),
    /// A complete element directly inside the stream.
    Element(Range<usize>),
    /// The end tag of the stream.
    Close,
}

/// The splitter remembers its position, so bytes are scanned once (a tag that is cut in two,
/// twice).
#[derive(Debug, Default)]
pub struct Splitter {
    depth: usize,
    position: usize,
    start: usize,
}

impl Splitter {
    /// For a stream that begins with its start tag.
    #[must_use]
    pub fn stream() -> Self {
        Self::default()
    }

    /// For a sequence of elements without a surrounding one (WebSocket).
    #[must_use]
    pub fn elements() -> Self {
        Self {
            depth: 1,
            ..Self::default()
        }
    }

    /// Notes that the caller removed `n` bytes, all of them consumed, from the buffer's start.
    pub fn removed(&mut self, n: usize) {
        self.position -= n;
        self.start -= n;
    }

    /// The first byte that the caller must keep.
    #[must_use]
    pub fn keep_from(&self) -> usize {
        self.start
    }

    /// The next item, or `None` when `buffer` holds no complete one yet.
    ///
    /// # Errors
    /// When the bytes cannot be XML of a stream (a comment, a DTD, an end tag too many).
    pub fn next(&mut self, buffer: &[u8]) -> Result<Option<Item>> {
        loop {
            let Some(offset) = memchr(b'<', &buffer[self.position..]) else {
                self.position = buffer.len();
                if self.depth <= 1 {
                    // White space between stanzas belongs to no item.
                    self.start = self.position;
                }
                return Ok(None);
            };
            let tag = self.position + offset;
            self.position = tag;
            if self.depth <= 1 {
                self.start = tag;
            }
            let rest = &buffer[tag..];
            let Some(second) = rest.get(1) else {
                return Ok(None);
            };
            match second {
                b'?' => match memmem::find(rest, b"?>") {
                    Some(end) => self.skip(tag + end + 2),
                    None => return Ok(None),
                },
                b'!' => {
                    const CDATA: &[u8] = b"<![CDATA[";
                    let seen = rest.len().min(CDATA.len());
                    if self.depth < 2 || rest[..seen] != CDATA[..seen] {
                        bail!("a comment or declaration inside the stream");
                    }
                    match memmem::find(rest, b"]]>") {
                        Some(end) => self.position = tag + end + 3,
                        None => return Ok(None),
                    }
                }
                b'/' => {
                    let Some(end) = memchr(b'>', rest) else {
                        return Ok(None);
                    };
                    self.position = tag + end + 1;
                    match self.depth {
                        0 => bail!("an end tag outside the stream"),
                        1 => {
                            self.depth = 0;
                            self.start = self.position;
                            return Ok(Some(Item::Close));
                        }
                        _ => self.depth -= 1,
                    }
                    if self.depth == 1 {
                        return Ok(Some(self.element()));
                    }
                }
                _ => {
                    let Some(end) = tag_end(rest) else {
                        return Ok(None);
                    };
                    self.position = tag + end + 1;
                    let empty = rest[end - 1] == b'/';
                    match (self.depth, empty) {
                        (0, false) => {
                            self.depth = 1;
                            self.start = self.position;
                            return Ok(Some(Item::Open(tag..self.position)));
                        }
                        (0, true) => bail!("the stream ends in its start tag"),
                        (1, true) => return Ok(Some(self.element())),
                        (_, false) => self.depth += 1,
                        (_, true) => {}
                    }
                }
            }
        }
    }

    fn skip(&mut self, to: usize) {
        self.position = to;
        if self.depth <= 1 {
            self.start = to;
        }
    }

    fn element(&mut self) -> Item {
        let range = self.start..self.position;
        self.start = self.position;
        Item::Element(range)
    }
}

/// The position of the '>' of a start tag; attribute values may contain that character.
pub(super) fn tag_end(tag: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let offset = memchr3(b'>', b'"', b'\'', &tag[at..])?;
        at += offset;
        if tag[at] == b'>' {
            return Some(at);
        }
        at += 2 + memchr(tag[at], &tag[at + 1..])?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STREAM: &str = "<?xml version='1.0'?><stream:stream a='>' xmlns='x'> <r/>\n\
        <message to='a&gt;b' id=\"it's > \"><body>x<![CDATA[</body>]]>y</body><e/></message>\
        <iq><q><q></q></q></iq></stream:stream>";

    fn collect(cut: usize) -> Vec<String> {
        let mut splitter = Splitter::stream();
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        for part in [&STREAM.as_bytes()[..cut], &STREAM.as_bytes()[cut..]] {
            let keep = splitter.keep_from();
            buffer.drain(..keep);
            splitter.removed(keep);
            buffer.extend_from_slice(part);
            while let Some(item) = splitter.next(&buffer).unwrap() {
                found.push(match item {
                    Item::Open(range) => format!("open {}", text(&buffer, range)),
                    Item::Element(range) => text(&buffer, range),
                    Item::Close => "close".to_owned(),
                });
            }
        }
        found
    }

    fn text(buffer: &[u8], range: Range<usize>) -> String {
        String::from_utf8(buffer[range].to_vec()).unwrap()
    }

    #[test]
    fn a_stream_is_cut_the_same_wherever_the_network_cuts_it() {
        let expected = collect(STREAM.len());
        assert_eq!(
            expected,
            [
                "open <stream:stream a='>' xmlns='x'>",
                "<r/>",
                "<message to='a&gt;b' id=\"it's > \"><body>x<![CDATA[</body>]]>y</body><e/></message>",
                "<iq><q><q></q></q></iq>",
                "close",
            ]
        );
        for cut in 0..STREAM.len() {
            assert_eq!(collect(cut), expected, "cut at {cut}");
        }
    }

    #[test]
    fn comments_and_stray_end_tags_are_refused() {
        assert!(Splitter::elements().next(b"<!-- -->").is_err());
        assert!(Splitter::stream().next(b"</a>").is_err());
        assert!(Splitter::stream().next(b"<a/>").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(
            proptest::sample::select(b"<>/'\"![]?-CDATa= ".to_vec()), 0..60)) {
            let mut splitter = Splitter::stream();
            for _ in 0..=bytes.len() {
                match splitter.next(&bytes) {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }
}
