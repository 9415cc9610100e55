//! Putting an instance into a directory registry.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::files;
use crate::model::Incarnation;

/// A file that announces an instance. It is deleted when this is released or dropped; a process that is
/// killed leaves it behind.
#[derive(Debug)]
#[must_use = "dropping it takes the registration back"]
pub struct DirectoryRegistration {
    path: PathBuf,
    incarnation: Incarnation,
}

/// Writes `ROOT/PATH/ID`, whole or not at all; the directories above are made where they are missing.
///
/// A file of that name is replaced. `path` is the service's path in the registry, `/services/orders`; `id` must
/// be a name that the registry takes for a node. Blocks on the file system.
pub fn register_in_directory(
    root: &Path,
    path: &str,
    id: &str,
    data: &[u8],
) -> io::Result<DirectoryRegistration> {
    let one_segment =
        |name: &str| !name.is_empty() && !name.contains('/') && !name.chars().any(char::is_control);
    if !one_segment(id) || !files::is_node_name(OsStr::new(id)) {
        return Err(invalid(format!("{id:?} is no name for a node")));
    }
    let mut directory = root.to_owned();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        if matches!(segment, "." | "..") {
            return Err(invalid(format!("{path:?} leads elsewhere")));
        }
        directory.push(segment);
    }
    fs::create_dir_all(&directory)?;
    // Hidden, so that a reader never sees it half-written. Drawn by lot: process ids repeat in containers.
    let draft = directory.join(format!(".{:016x}.tmp", fastrand::u64(..)));
    let target = directory.join(id);
    let written = write(&draft, data).and_then(|incarnation| {
        fs::rename(&draft, &target)?;
        Ok(incarnation)
    });
    match written {
        Ok(incarnation) => Ok(DirectoryRegistration { path: target, incarnation }),
        Err(error) => {
            // What is left of the draft is hidden; the error that counts is the first.
            let _ = fs::remove_file(&draft);
            Err(error)
        }
    }
}

impl DirectoryRegistration {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the registration back. Nothing happens where somebody else has replaced the file.
    pub fn release(mut self) -> io::Result<()> {
        self.delete()
    }

    fn delete(&mut self) -> io::Result<()> {
        let path = std::mem::take(&mut self.path);
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let gone_is_fine = |error: io::Error| if files::is_missing(&error) { Ok(()) } else { Err(error) };
        match fs::symlink_metadata(&path) {
            Ok(metadata) if files::incarnation(&metadata) == self.incarnation => {
                fs::remove_file(&path).or_else(gone_is_fine)
            }
            Ok(_) => Ok(()),
            Err(error) => gone_is_fine(error),
        }
    }
}

impl Drop for DirectoryRegistration {
    fn drop(&mut self) {
        let path = self.path.clone();
        if let Err(error) = self.delete() {
            tracing::warn!(path = %path.display(), %error, "a registration could not be taken back");
        }
    }
}

fn write(path: &Path, data: &[u8]) -> io::Result<Incarnation> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(data)?;
    file.metadata().map(|metadata| files::incarnation(&metadata))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
