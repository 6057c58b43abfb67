//! Objects in Redis: a foreign or malformed one is an error, never a panic. Words are separated by
//! line feeds.

use sestina_state::fuzzing::read_object;

/// See the module.
pub fn run(data: &[u8]) {
    let words: Vec<Vec<u8>> = data.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
    let pairs = words.len() / 2;
    if let Ok(Some(object)) = read_object("object", words) {
        assert!(object.fields.len() < pairs, "one pair is the version");
    }
}
