//! Finds the program that a container is to run, and says beforehand what would make its execution fail.
//! It does not run it.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use crate::account::Account;
use crate::bundle::mounts::Mounts;
use crate::error::{Error, Result};
use crate::rootfs::{Kind, Metadata, RootView, look_up_in, metadata};

/// How much of a program is read for the name of its interpreter; the kernel reads as much (BINPRM_BUF_SIZE).
const START_BYTES: u64 = 256;

/// Where a program is looked for.
pub(super) struct Lookup<'a> {
    pub(super) image: &'a str,
    pub(super) view: &'a RootView,
    pub(super) mounts: &'a Mounts,
    pub(super) account: &'a Account,
    pub(super) working_directory: &'a Path,
}

impl Lookup<'_> {
    /// The absolute path of a program in the container. One with a slash in it is taken from the working folder, any
    /// other is looked for in the folders of `path`, as execvp(3) does.
    pub(super) fn program(&self, program: &str, path: &str) -> Result<String> {
        let candidates: Vec<PathBuf> = if program.is_empty() {
            Vec::new()
        } else if program.contains('/') {
            vec![self.working_directory.join(program)]
        } else {
            path.split(':').map(|folder| self.working_directory.join(folder).join(program)).collect()
        };
        let mut unusable = None;
        for candidate in candidates {
            match self.look_at(&candidate)? {
                Some(found) if found.kind == Kind::File && may_execute(self.account, &found) => {
                    self.check_interpreter(&candidate)?;
                    // OK because it was joined from strings.
                    return Ok(candidate.to_str().expect("a UTF-8 path").to_owned());
                }
                Some(_) => unusable = unusable.or(Some(candidate)),
                None => {}
            }
        }
        Err(match unusable {
            Some(program) => {
                Error::NotExecutable { image: self.image.to_owned(), program, uid: self.account.uid }
            }
            None => Error::NoEntrypoint { image: self.image.to_owned(), program: program.to_owned() },
        })
    }

    /// A script whose interpreter is missing fails with "no such file", which then seems to mean the script itself.
    fn check_interpreter(&self, program: &Path) -> Result<()> {
        if self.mounts.covering(program).is_some() {
            return Ok(());
        }
        let start = self.view.read_start(program, START_BYTES)?.unwrap_or_default();
        let Some(line) = start.strip_prefix(b"#!") else { return Ok(()) };
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
        let interpreter = line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
        let interpreter = String::from_utf8_lossy(interpreter);
        if interpreter.contains('\0') || self.look_at(&self.working_directory.join(&*interpreter))?.is_none()
        {
            return Err(Error::NoInterpreter {
                image: self.image.to_owned(),
                program: program.to_owned(),
                interpreter: interpreter.into_owned(),
            });
        }
        Ok(())
    }

    /// What the container will find at a path: in the image, or in a folder of the host that is mounted over it.
    fn look_at(&self, path: &Path) -> Result<Option<Metadata>> {
        let Some((mount, rest)) = self.mounts.covering(path) else { return self.view.metadata(path) };
        let failed = |error: std::io::Error| Error::io(format!("look at {}", mount.source.display()), error);
        if rest.as_os_str().is_empty() {
            let opened = openat(CWD, &mount.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            let stat = opened.and_then(fstat).map_err(|errno| failed(errno.into()))?;
            return Ok(Some(metadata(&stat)));
        }
        if !fs::metadata(&mount.source).map_err(failed)?.is_dir() {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = openat(CWD, &mount.source, flags, Mode::empty())
            .and_then(|source| look_up_in(source.as_fd(), rest, OFlags::PATH))
            .and_then(|found| found.map(fstat).transpose());
        Ok(found.map_err(|errno| failed(errno.into()))?.map(|stat| metadata(&stat)))
    }
}

/// The kernel's rule, without access control lists: of owner, group and others the first that fits decides, and root
/// needs any of the three.
fn may_execute(account: &Account, file: &Metadata) -> bool {
    let bit = if account.uid == 0 {
        0o111
    } else if account.uid == file.uid {
        0o100
    } else if account.groups.contains(&file.gid) {
        0o010
    } else {
        0o001
    };
    file.mode & bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let file = |mode, uid, gid| Metadata { kind: Kind::File, mode, uid, gid, bytes: 1 };
        let account = |uid, groups: &[u32]| Account {
            uid,
            gid: groups[0],
            groups: groups.to_vec(),
            name: None,
            home: "/".to_owned(),
        };
        let table = [
            (account(0, &[0]), file(0o100, 5, 5), true),
            (account(0, &[0]), file(0o644, 0, 0), false),
            (account(5, &[5]), file(0o711, 5, 5), true),
            (account(5, &[5]), file(0o011, 5, 5), false),
            (account(6, &[7, 5]), file(0o710, 5, 5), true),
            (account(6, &[7, 5]), file(0o701, 5, 5), false),
            (account(6, &[7]), file(0o701, 5, 5), true),
            (account(6, &[7]), file(0o770, 5, 5), false),
        ];
        for (account, file, expected) in table {
            assert_eq!(may_execute(&account, &file), expected, "{account:?} {file:?}");
        }
    }
}
