//! Presences by their hash: equal ones need not be sent again.

use xxhash_rust::xxh3::Xxh3;

impl crate::Stanza {
    /// Of what a client said in it, whoever sent it to whom.
    pub fn hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        for part in [self.lang.as_bytes(), self.attrs.as_bytes(), &self.payload] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.digest()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::Stanza;

    #[test]
    fn addresses_do_not_count_and_contents_do() {
        let away = Stanza {
            payload: Bytes::from_static(b"<show>away</show>"),
            ..Stanza::default()
        };
        let from = Stanza {
            from: "garden@muc.example/Juliet".to_owned(),
            ..away.clone()
        };
        assert_eq!(away.hash(), from.hash());
        let lang = Stanza {
            lang: "it".to_owned(),
            ..away.clone()
        };
        assert_ne!(away.hash(), lang.hash());
        assert_ne!(away.hash(), Stanza::default().hash());
    }
}
