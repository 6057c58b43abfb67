//! A data directory has one user: two processes on one SQLite file, each with its own live state,
//! would both act as the whole system.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};

/// The lock, held while the process serves; the system releases it when the process dies.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataLock {
    /// Creates the directory if needed and locks it.
    pub fn take(dir: &Path) -> anyhow::Result<DataLock> {
        std::fs::create_dir_all(dir).with_context(|| {
            format!(
                "cannot create the data directory {}; set node.data_dir",
                dir.display()
            )
        })?;
        let path = dir.join("lock");
        let open = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(&path);
        let mut file = open.with_context(|| {
            format!(
                "cannot open {}; make the data directory writable",
                path.display()
            )
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let who = std::fs::read_to_string(&path).unwrap_or_default();
                let who = match who.trim() {
                    "" => "another process".to_owned(),
                    id => format!("another process (id {id})"),
                };
                bail!(
                    "{who} serves from the data directory {}; stop it, or set another node.data_dir",
                    dir.display()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        // The content is for the message above only; the lock does not depend on it.
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(DataLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        let lock = DataLock::take(&inner).unwrap();
        let refused = DataLock::take(&inner).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("id {}", std::process::id())),
            "{refused}"
        );
        assert!(refused.contains("node.data_dir"), "{refused}");
        drop(lock);
        DataLock::take(&inner).unwrap();
    }
}
