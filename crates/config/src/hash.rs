//! The hash of the configuration: processes of a cluster compare it when they meet.

use crate::sections::Config;

impl Config {
    /// Hash of the options that must be the same in all processes of a cluster: hosts, services of
    /// rooms and modules. Paths, addresses and sizes may differ.
    pub fn config_hash(&self) -> u64 {
        let mut hash = Fnv::default();
        for host in &self.host {
            hash.text(&host.domain);
            hash.text(&host.muc);
            hash.text(if host.anonymous {
                "anonymous"
            } else {
                "accounts"
            });
            host.mechanisms
                .iter()
                .for_each(|mechanism| hash.text(mechanism));
            hash.text("");
        }
        let router = &self.router;
        let modules = [
            ("archive", usize::from(router.archive)),
            ("carbons", usize::from(router.carbons)),
            ("offline_limit", router.offline_limit),
            ("muc_history", router.muc_history),
        ];
        for (name, value) in modules {
            hash.text(name);
            hash.text(&value.to_string());
        }
        // Without any block the hash is that of versions that had no such blocks.
        for rooms in &self.rooms {
            hash.text("rooms");
            hash.text(&rooms.domain);
            hash.text(rooms.slots_of.as_deref().unwrap_or_default());
            rooms.listed_by.iter().for_each(|host| hash.text(host));
            hash.text("");
        }
        for (domain, at) in self.modules.at() {
            at.hash_into(domain, |text| hash.text(text));
        }
        hash.0
    }
}

/// FNV-1a: the value is compared between processes of different builds and machines, so it must
/// not depend on either.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn text(&mut self, text: &str) {
        // The zero byte ends each text, so that "ab","c" and "a","bc" differ.
        for byte in text.bytes().chain([0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
