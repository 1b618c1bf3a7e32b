//! The names that are still to come on a walk through folders, each folder's sorted by their bytes, in bounded memory: of a
//! folder with more names than that the smallest are held, and it is read again for the next ones.
//! Knows nothing of what has these names.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::Dir;

/// So much is held for one folder, bytes; twice as much while it is read.
const OF_ONE_BYTES_MAX: usize = 4 << 20;
/// So much is held for all folders that the walk is in, bytes.
const OF_ALL_BYTES_MAX: usize = 8 << 20;
/// What a name costs beside its bytes.
const NAME_BYTES: usize = 48;

/// What comes next.
pub(super) enum Next {
    /// A name in the folder at hand, whose own path has so many bytes.
    Name { name: CString, path_bytes: usize },
    /// The folder above, of that inode.
    Up { inode: u64 },
    /// Nothing.
    Done,
}

/// The folders that the walk is in, the deepest one last.
#[derive(Default)]
pub(super) struct Levels {
    levels: Vec<Level>,
    held: usize,
}

struct Level {
    names: Names,
    inode: u64,
    path_bytes: usize,
}

impl Levels {
    /// Goes into a folder, which is called `path`.
    pub(super) fn down(&mut self, folder: &OwnedFd, inode: u64, path: &[u8]) -> io::Result<()> {
        let names = Names::read(folder, None, OF_ONE_BYTES_MAX)?;
        self.held += names.bytes;
        self.levels.push(Level { names, inode, path_bytes: path.len() });
        if self.held > OF_ALL_BYTES_MAX {
            self.let_go();
        }
        Ok(())
    }

    /// Goes on in the deepest folder, which must be `folder`. `path` begins with the name that it gave before this one.
    pub(super) fn next(&mut self, folder: &OwnedFd, path: &[u8]) -> io::Result<Next> {
        let Some(level) = self.levels.last_mut() else { return Ok(Next::Done) };
        if level.names.sorted.is_empty() && level.names.are_more {
            let after = CString::new(name_at(path, level.path_bytes))?;
            self.held -= level.names.bytes;
            level.names = Names::read(folder, Some(&after), OF_ONE_BYTES_MAX)?;
            self.held += level.names.bytes;
        }
        if let Some(name) = level.names.sorted.pop() {
            return Ok(Next::Name { name, path_bytes: level.path_bytes });
        }
        self.held -= level.names.bytes;
        self.levels.pop();
        Ok(self.levels.last().map_or(Next::Done, |above| Next::Up { inode: above.inode }))
    }

    /// Forgets the names of folders above, which are read again on the way up.
    fn let_go(&mut self) {
        let above = self.levels.len() - 1;
        for level in &mut self.levels[..above] {
            if !level.names.sorted.is_empty() {
                self.held -= level.names.bytes;
                level.names = Names { are_more: true, ..Names::default() };
            }
        }
    }
}

/// The name in a path that follows the folder's own.
fn name_at(path: &[u8], folder_bytes: usize) -> &[u8] {
    let below = path.get(folder_bytes..).unwrap_or_default();
    let below = below.strip_prefix(b"/").unwrap_or(below);
    below.split(|&byte| byte == b'/').next().unwrap_or_default()
}

/// Names in one folder.
#[derive(Default)]
struct Names {
    /// Those still to come, the next one last.
    sorted: Vec<CString>,
    /// Whether there are more behind these.
    are_more: bool,
    /// What they cost.
    bytes: usize,
}

impl Names {
    /// The smallest names, of those after another if one is given, as many as `most` bytes hold; at least one.
    fn read(folder: &OwnedFd, after: Option<&CStr>, most: usize) -> io::Result<Self> {
        let (mut names, mut last) = (Self::default(), None::<CString>);
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_wanted = !matches!(name.to_bytes(), b"." | b"..")
                && after.is_none_or(|after| name > after)
                && last.as_ref().is_none_or(|last| name <= last);
            if is_wanted {
                names.bytes += cost(name);
                names.sorted.push(name.to_owned());
                if names.bytes > 2 * most {
                    names.cut(most);
                    last = names.sorted.last().filter(|_| names.are_more).cloned();
                }
            }
        }
        names.sorted.sort_unstable();
        if names.bytes > most {
            names.cut(most);
        }
        names.sorted.reverse();
        Ok(names)
    }

    /// Keeps the smallest.
    fn cut(&mut self, most: usize) {
        self.sorted.sort_unstable();
        let mut bytes = 0;
        let fitting = self.sorted.iter().take_while(|name| {
            bytes += cost(name);
            bytes <= most
        });
        let kept = fitting.count().max(1);
        self.are_more |= kept < self.sorted.len();
        self.sorted.truncate(kept);
        self.bytes = self.sorted.iter().map(|name| cost(name)).sum();
    }
}

fn cost(name: &CStr) -> usize {
    name.to_bytes().len() + NAME_BYTES
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn names_come_in_their_order_however_few_fit() {
        let temporary = tempfile::tempdir().unwrap();
        let mut expected: Vec<String> =
            (0..300).map(|number| format!("{:x}", number * 7919 % 1000)).collect();
        for name in &expected {
            File::create_new(temporary.path().join(name)).unwrap();
        }
        expected.sort_unstable();
        let folder = File::open(temporary.path()).unwrap().into();
        for most in [1, 300, 1000, 5000, 1 << 20] {
            let (mut found, mut after) = (Vec::new(), None::<CString>);
            loop {
                let names = Names::read(&folder, after.as_deref(), most).unwrap();
                assert!(names.bytes <= most || names.sorted.len() == 1);
                let more = names.are_more;
                after = names.sorted.first().cloned();
                found.extend(names.sorted.into_iter().rev().map(|name| name.into_string().unwrap()));
                if !more {
                    break;
                }
            }
            assert_eq!(found, expected, "{most}");
        }
    }

    #[test]
    fn what_was_let_go_is_read_again() {
        let temporary = tempfile::tempdir().unwrap();
        for name in ["a", "b/x", "b/y", "b c", "d"] {
            std::fs::create_dir_all(temporary.path().join(name)).unwrap();
        }
        let open = |path: &std::path::Path| OwnedFd::from(File::open(path).unwrap());
        let (root, below) = (open(temporary.path()), open(&temporary.path().join("b")));
        let mut levels = Levels::default();
        let mut path = Vec::new();
        let mut found = Vec::new();
        levels.down(&root, 1, b"").unwrap();
        let mut is_below = false;
        loop {
            match levels.next(if is_below { &below } else { &root }, &path).unwrap() {
                Next::Name { name, path_bytes } => {
                    path.truncate(path_bytes);
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(name.to_bytes());
                    found.push(String::from_utf8(path.clone()).unwrap());
                    if path == b"b" {
                        levels.down(&below, 2, &path).unwrap();
                        levels.let_go();
                        is_below = true;
                    }
                }
                Next::Up { inode } => {
                    assert_eq!(inode, 1);
                    is_below = false;
                }
                Next::Done => break,
            }
        }
        assert_eq!(found, ["a", "b", "b/x", "b/y", "b c", "d"]);
        assert_eq!(levels.held, 0);
    }
}
