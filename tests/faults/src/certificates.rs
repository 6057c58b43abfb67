//! Certificates of one private authority, for the processes of a cluster and for others.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use sestina_certs::{Role, ensure_ca};
use sestina_rpc::TlsFiles;

/// See the module.
#[derive(Clone, Debug)]
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Creates an authority in that folder.
    pub fn new(folder: &Path) -> Result<Certificates> {
        fs::create_dir_all(folder)?;
        ensure_ca(folder)?;
        Ok(Certificates {
            folder: folder.to_owned(),
        })
    }

    /// Issues a certificate for a process of that name and role at 127.0.0.1.
    pub fn issue(&self, name: &str, role: Role) -> Result<TlsFiles> {
        let file = |end: &str| self.folder.join(format!("{name}.{role}.{end}"));
        let files = TlsFiles {
            cert: file("pem"),
            key: file("key"),
            ca: self.authority(),
        };
        let issued = ensure_ca(&self.folder)?.issue(name, role, &["127.0.0.1".to_owned()])?;
        issued.write(&files.cert, &files.key)?;
        Ok(files)
    }

    /// The certificate of the authority.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The folder of all certificates.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
