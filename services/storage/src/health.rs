//! Whether the database can take what it is asked to store: its file is the one that was opened,
//! its disk has room, and writes succeed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sestina_api::store::StoreError;

/// With less on its disk, a database in a file is as good as full: SQLite's log alone grows to
/// some MiB between two checkpoints.
const ROOM: u64 = 16 << 20;

/// For so long a refused write tells of a full disk, if none succeeded since.
const REMEMBERED: Duration = Duration::from_secs(10);

/// The file of a database, as it was when it was opened.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl DatabaseFile {
    /// The file that has just been opened.
    pub(crate) fn opened(path: &Path) -> std::io::Result<DatabaseFile> {
        let (device, inode) = identity(&std::fs::metadata(path)?);
        Ok(DatabaseFile {
            path: path.to_owned(),
            device,
            inode,
        })
    }

    /// Fails if the file is not in its place any more: what is written now would be lost with the
    /// end of the process. A look at the folder, which takes a microsecond.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let what = match std::fs::metadata(&self.path) {
            Ok(found) if identity(&found) == (self.device, self.inode) => return Ok(()),
            Ok(_) => "was replaced".to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "was deleted".to_owned(),
            Err(error) => format!("cannot be looked at ({error})"),
        };
        let path = self.path.display();
        Err(StoreError::Unavailable(format!(
            "the database file {path} {what} while the server was running, and nothing is written any \
             more: stop the server, put the file back or restore a backup, and start the server"
        )))
    }

    /// Fails if there is no room to write.
    fn room(&self) -> Result<(), String> {
        let left = rustix::fs::statvfs(&self.path)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        match left {
            ROOM.. => Ok(()),
            _ => Err(full(&format!(
                "{} KiB are left for {}",
                left >> 10,
                self.path.display()
            ))),
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn full(why: &str) -> String {
    format!("the disk of the database is full: {why}; make room")
}

/// What became of the last writes.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    /// When a write was refused for want of room, and what the database said.
    refused: Mutex<Option<(Instant, String)>>,
}

impl Writes {
    /// A write has ended.
    pub(crate) fn note<T>(&self, result: Result<&T, &sqlx::Error>) {
        match result {
            Ok(_) => {
                let mut refused = self.refused.lock();
                // Small writes may find room where others do not.
                if refused
                    .as_ref()
                    .is_some_and(|(at, _)| at.elapsed() > REMEMBERED)
                {
                    *refused = None;
                }
            }
            Err(error) if wants_room(error) => {
                *self.refused.lock() = Some((Instant::now(), error.to_string()));
            }
            Err(_) => {}
        }
    }
}

/// SQLite: `FULL`, or `IOERR_WRITE`. PostgreSQL: `disk_full`.
fn wants_room(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| matches!(&*code, "13" | "778" | "53100"))
}

/// Whether the database can store.
pub(crate) fn health(file: Option<&DatabaseFile>, writes: &Writes) -> Result<(), String> {
    if let Some(file) = file {
        file.check().map_err(|error| match error {
            StoreError::Unavailable(reason) => reason,
            other => other.to_string(),
        })?;
        file.room()?;
    }
    match &*writes.refused.lock() {
        Some((_, why)) => Err(full(why)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::StorageConfig;
    use crate::error::Fault;
    use crate::writer::{self, Lite};

    async fn run(lite: &Lite, sql: &'static str) -> Result<(), Fault> {
        lite.write(move |conn| {
            Box::pin(async move {
                sqlx::query(sql).execute(conn).await?;
                Ok(())
            })
        })
        .await
    }

    #[tokio::test]
    async fn a_write_without_room_is_told_until_others_succeed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let config = StorageConfig::new(format!("sqlite:{}", path.display()));
        let options = writer::options(&config).unwrap();
        let conn = writer::connect(&config, &options).await.unwrap();
        let lite = Lite::start(&config, options, conn).unwrap();
        run(&lite, "CREATE TABLE t (x BLOB)").await.unwrap();
        run(&lite, "PRAGMA max_page_count = 4").await.unwrap();
        let refused = run(&lite, "INSERT INTO t VALUES (zeroblob(100000))").await;
        assert!(
            matches!(refused, Err(Fault::Store(StoreError::Unavailable(_)))),
            "{refused:?}"
        );
        let told = health(lite.file(), lite.writes()).unwrap_err();
        assert!(told.contains("disk of the database is full"), "{told}");
        run(&lite, "PRAGMA max_page_count = 4000").await.unwrap();
        assert!(
            health(lite.file(), lite.writes()).is_err(),
            "small writes find room"
        );
        let (at, _) = lite.writes().refused.lock().take().unwrap();
        let long_ago = at.checked_sub(REMEMBERED * 2).unwrap();
        *lite.writes().refused.lock() = Some((long_ago, String::new()));
        run(&lite, "INSERT INTO t VALUES (zeroblob(100000))")
            .await
            .unwrap();
        assert_eq!(health(lite.file(), lite.writes()), Ok(()));
        lite.close().await;
    }

    #[test]
    fn a_file_is_missed_when_it_is_deleted_or_replaced_and_known_when_it_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("a.db"), folder.path().join("aside"));
        std::fs::write(&path, "1").unwrap();
        let file = DatabaseFile::opened(&path).unwrap();
        let writes = Writes::default();
        assert_eq!(health(Some(&file), &writes), Ok(()));
        std::fs::rename(&path, &aside).unwrap();
        let deleted = file.check().unwrap_err().to_string();
        assert!(deleted.contains("a.db was deleted while"), "{deleted}");
        assert!(deleted.contains("stop the server"), "{deleted}");
        std::fs::write(&path, "2").unwrap();
        let replaced = health(Some(&file), &writes).unwrap_err();
        assert!(replaced.contains("was replaced"), "{replaced}");
        std::fs::rename(&aside, &path).unwrap();
        assert_eq!(file.check(), Ok(()));
    }
}
