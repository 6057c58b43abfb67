//! Data of modules about an entity (a user): typed, by name, loaded before a handler that needs it runs.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// Data of a module about an entity. Storage keeps it as bytes, at most
/// [`ENTITY_VALUE_BYTES`](sestina_api::store::ENTITY_VALUE_BYTES) of them.
pub trait EntityData: Any + Send + Sync + Sized {
    /// Its name in storage: that of the module.
    const NAME: &'static str;
    /// Reads what [`EntityData::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with the bytes: another program has written them.
    fn decode(bytes: Bytes) -> Result<Self, String>;
    /// Its form in storage. No bytes: the data is removed.
    fn encode(&self) -> Bytes;
}

type Value = Arc<dyn Any + Send + Sync>;

/// A type of data, for the code that loads it without knowing it.
#[derive(Clone, Copy)]
pub struct DataType {
    /// See [`EntityData::NAME`].
    pub name: &'static str,
    decode: fn(Bytes) -> Result<Value, String>,
}

impl DataType {
    /// The type of `T`.
    pub fn of<T: EntityData>() -> DataType {
        DataType {
            name: T::NAME,
            decode: |bytes| Ok(Arc::new(T::decode(bytes)?)),
        }
    }
}

impl fmt::Debug for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The data of one entity as far as it is loaded.
#[derive(Clone, Default)]
pub struct Loaded {
    values: BTreeMap<&'static str, Option<Value>>,
    bytes: usize,
}

impl Loaded {
    /// The data of that type; none if the entity has none.
    pub fn get<T: EntityData>(&self) -> Option<&T> {
        let value = self.values.get(T::NAME)?.as_ref()?;
        value.downcast_ref()
    }

    /// Whether it is known what the entity has of that type.
    pub(crate) fn has(&self, data: DataType) -> bool {
        self.values.contains_key(data.name)
    }

    /// Bytes of the data as it is stored.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes what storage has of that type (`None`: nothing).
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub(crate) fn take(&mut self, data: DataType, bytes: Option<Bytes>) -> Result<(), String> {
        let size = bytes.as_ref().map_or(0, Bytes::len);
        let value = bytes.map(data.decode).transpose()?;
        self.values.insert(data.name, value);
        self.bytes += size;
        Ok(())
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values.keys()).finish()
    }
}

/// New data of an entity, to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// See [`EntityData::NAME`].
    pub name: &'static str,
    /// See [`EntityData::encode`].
    pub value: Bytes,
}

impl Written {
    /// The data as it is stored.
    pub fn new<T: EntityData>(data: &T) -> Written {
        Written {
            name: T::NAME,
            value: data.encode(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Digit(u8);

    impl EntityData for Digit {
        const NAME: &'static str = "digit";
        fn decode(bytes: Bytes) -> Result<Digit, String> {
            match bytes[..] {
                [digit] => Ok(Digit(digit)),
                _ => Err("not one byte".to_owned()),
            }
        }
        fn encode(&self) -> Bytes {
            Bytes::copy_from_slice(&[self.0])
        }
    }

    #[test]
    fn data_that_was_written_is_read_as_it_was() {
        let data = DataType::of::<Digit>();
        let mut loaded = Loaded::default();
        assert!(!loaded.has(data));
        loaded
            .take(data, Some(Written::new(&Digit(7)).value))
            .unwrap();
        assert_eq!(loaded.get::<Digit>(), Some(&Digit(7)));
        loaded.take(data, None).unwrap();
        assert!(loaded.has(data));
        assert_eq!(loaded.get::<Digit>(), None);
    }

    #[test]
    fn data_of_another_program_is_an_error_and_not_taken() {
        let data = DataType::of::<Digit>();
        let mut loaded = Loaded::default();
        let error = loaded.take(data, Some(Bytes::from_static(b"12")));
        assert_eq!(error, Err("not one byte".to_owned()));
        assert!(!loaded.has(data));
    }
}
