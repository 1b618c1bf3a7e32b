//! Who a container runs as: Docker's rules for an image's `User`, by the image's own passwd and group files.
//! It knows nothing of the host's users.

use std::ops::RangeInclusive;
use std::path::Path;

use crate::error::{Error, Result};
use crate::rootfs::RootView;

/// User ids of no user: the runtime gives them to listening sockets, which it tells apart by them. Systemd's table of ids has
/// this range as unused (UIDS-GIDS.md).
///
/// No file of an image may have such an owner: a setuid program, or one that root in a container makes such, would get a
/// process that is let in where only the runtime is.
pub const UIDS_OF_LISTENERS: RangeInclusive<u32> = 0x7000_0000..=0x7fff_ffff;

/// The highest id that may be typed; Docker's limit.
const ID_MAX: u32 = i32::MAX as u32;

/// A user of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups of the process: the primary one first, then the supplementary ones in ascending order. Docker
    /// lists the primary one too, because a process that may drop supplementary groups could otherwise get around
    /// files that deny a group (CVE-2022-36109).
    pub groups: Vec<u32>,
    /// Its name, when the image's passwd has one for it.
    pub name: Option<String>,
    /// Its home folder; `/` when the image's passwd names none.
    pub home: String,
}

/// Finds the user that `user` means in an image: nothing or `""` is user id 0; `name`, `uid`, `name:group`,
/// `uid:gid` and every mixture. A number is always an id, whether passwd knows it or not. Without a group, the
/// primary group comes from passwd and the supplementary groups from group; with one, it is the only one.
///
/// # Errors
/// [`Error::NoUser`] for a name that the image lacks, [`Error::IdOutOfRange`] for a number above 2147483647,
/// and those of [`RootView::read`].
pub fn resolve(view: &RootView, user: Option<&str>) -> Result<Account> {
    let passwd = view.read(Path::new("/etc/passwd"))?.unwrap_or_default();
    let group = view.read(Path::new("/etc/group"))?.unwrap_or_default();
    find(&passwd, &group, user.unwrap_or_default()).map_err(|missing| match missing {
        Missing::User(name) => Error::NoUser { image: view.image().to_owned(), kind: "user", name },
        Missing::Group(name) => Error::NoUser { image: view.image().to_owned(), kind: "group", name },
        Missing::Range(id) => Error::IdOutOfRange { id, id_max: ID_MAX },
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Missing {
    User(String),
    Group(String),
    Range(String),
}

/// The rules themselves, as in `GetExecUser` of github.com/moby/sys/user.
fn find(passwd: &[u8], group: &[u8], user: &str) -> Result<Account, Missing> {
    let (user, wanted_group) = user.split_once(':').unwrap_or((user, ""));
    let user_id = if user.is_empty() { Some(0) } else { id(user)? };
    let entry = passwd_entries(passwd).find(|entry| match user_id {
        Some(uid) => entry.uid == uid,
        None => entry.name == user.as_bytes(),
    });
    let uid = match (user_id, &entry) {
        (Some(uid), _) => uid,
        (None, Some(entry)) => entry.uid,
        (None, None) => return Err(Missing::User(user.to_owned())),
    };

    let (gid, mut supplementary) = if wanted_group.is_empty() {
        let member = entry.as_ref().map(|entry| entry.name);
        let of_member = |group: &GroupEntry<'_>| {
            member.is_some_and(|name| group.members.split(|&b| b == b',').any(|listed| listed == name))
        };
        let groups = group_entries(group).filter(of_member).map(|group| group.gid).collect();
        (entry.as_ref().map_or(0, |entry| entry.gid), groups)
    } else {
        let gid = match id(wanted_group)? {
            Some(gid) => gid,
            None => group_entries(group)
                .find(|entry| entry.name == wanted_group.as_bytes())
                .map(|entry| entry.gid)
                .ok_or_else(|| Missing::Group(wanted_group.to_owned()))?,
        };
        (gid, Vec::new())
    };
    supplementary.sort_unstable();
    supplementary.dedup();
    supplementary.retain(|&other| other != gid);
    let mut groups = vec![gid];
    groups.append(&mut supplementary);

    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Ok(Account {
        uid,
        gid,
        groups,
        name: entry.as_ref().and_then(|entry| text(entry.name)),
        home: entry
            .and_then(|entry| text(entry.home))
            .filter(|home| home.starts_with('/'))
            .unwrap_or_else(|| "/".to_owned()),
    })
}

/// A number is an id, anything else (`None`) a name.
fn id(text: &str) -> Result<Option<u32>, Missing> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= ID_MAX => Ok(Some(id)),
        _ => Err(Missing::Range(text.to_owned())),
    }
}

struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// passwd(5), leniently: a line that is not one is passed over. Its ids must be numbers, though: Docker takes an
/// unreadable one for 0, which would make such a user root.
fn passwd_entries(content: &[u8]) -> impl Iterator<Item = PasswdEntry<'_>> {
    lines(content).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(PasswdEntry { name, uid, gid, home })
    })
}

/// group(5), as leniently.
fn group_entries(content: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    lines(content).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = number(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default();
        Some(GroupEntry { name, gid, members })
    })
}

fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        // A NUL could only end up in an environment variable, which it would cut short.
        .filter(|line| !line.is_empty() && line[0] != b'#' && !line.contains(&0))
}

/// An id in a file; the highest one means "none" to the kernel and is nobody's.
fn number(field: &[u8]) -> Option<u32> {
    if !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok().filter(|&id| id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n\
        # nobody:x:1:1::/:/bin/sh\n\
        keystone:x:64062:64063::/var/lib/keystone:/bin/false\n\
        broken:x:zero:0::/broken:/bin/sh\n\
        minus:x:4294967295:0::/minus:/bin/sh\n\
        short:x:7:8\n\
        relative:x:9:9::home:/bin/sh\n\
        1000:x:1001:1001::/home/named-like-a-number:/bin/sh\n\
        keystone:x:1:1::/second:/bin/sh\n";
    const GROUP: &[u8] =
        b"root:x:0:\nkeystone:x:64063:\nssl-cert:x:110:postgres,keystone\nadm:x:4:keystone\n\
        half:x\nalso:x:64063:keystone\nwheel:x:10:root,keystoned\n";

    fn account(uid: u32, groups: &[u32], name: Option<&str>, home: &str) -> Account {
        Account {
            uid,
            gid: groups[0],
            groups: groups.to_vec(),
            name: name.map(str::to_owned),
            home: home.to_owned(),
        }
    }

    #[test]
    fn every_form_of_docker_is_understood() {
        let root = || account(0, &[0, 10], Some("root"), "/root");
        let keystone = || account(64062, &[64063, 4, 110], Some("keystone"), "/var/lib/keystone");
        let table = [
            ("", root()),
            ("root", root()),
            ("0", root()),
            (":", root()),
            ("keystone", keystone()),
            ("keystone:", keystone()),
            ("64062", keystone()),
            ("keystone:adm", account(64062, &[4], Some("keystone"), "/var/lib/keystone")),
            ("keystone:4", account(64062, &[4], Some("keystone"), "/var/lib/keystone")),
            ("64062:999", account(64062, &[999], Some("keystone"), "/var/lib/keystone")),
            ("12345", account(12345, &[0], None, "/")),
            ("12345:adm", account(12345, &[4], None, "/")),
            ("12345:12346", account(12345, &[12346], None, "/")),
            (":adm", account(0, &[4], Some("root"), "/root")),
            ("short", account(7, &[8], Some("short"), "/")),
            ("relative", account(9, &[9], Some("relative"), "/")),
            // A number is an id even where a user is named like it.
            ("1000", account(1000, &[0], None, "/")),
            ("2147483647", account(2_147_483_647, &[0], None, "/")),
        ];
        for (user, expected) in table {
            assert_eq!(find(PASSWD, GROUP, user), Ok(expected), "{user:?}");
        }
    }

    #[test]
    fn what_the_image_lacks_is_named() {
        let table = [
            ("glance", Missing::User("glance".to_owned())),
            ("glance:adm", Missing::User("glance".to_owned())),
            ("keystone:nobody", Missing::Group("nobody".to_owned())),
            // Not taken for root, as Docker would.
            ("broken", Missing::User("broken".to_owned())),
            ("minus", Missing::User("minus".to_owned())),
            ("keystone:half", Missing::Group("half".to_owned())),
            ("#", Missing::User("#".to_owned())),
            ("2147483648", Missing::Range("2147483648".to_owned())),
            ("99999999999999999999", Missing::Range("99999999999999999999".to_owned())),
            ("-1", Missing::Range("-1".to_owned())),
            ("0:4294967295", Missing::Range("4294967295".to_owned())),
            ("a:b:c", Missing::User("a".to_owned())),
        ];
        for (user, expected) in table {
            assert_eq!(find(PASSWD, GROUP, user), Err(expected), "{user:?}");
        }
    }

    #[test]
    fn an_image_without_passwd_has_only_numbers() {
        assert_eq!(find(b"", b"", ""), Ok(account(0, &[0], None, "/")));
        assert_eq!(find(b"", b"", "5:6"), Ok(account(5, &[6], None, "/")));
        assert_eq!(find(b"", b"", "root"), Err(Missing::User("root".to_owned())));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(
            passwd in proptest::collection::vec(any::<u8>(), 0..300),
            group in "([a-z0-9:,\n\u{0}-]|:x:){0,80}",
            user in "[a-z0-9:+-]{0,12}",
        ) {
            if let Ok(account) = find(&passwd, group.as_bytes(), &user) {
                prop_assert_eq!(account.groups[0], account.gid);
                prop_assert!(account.home.starts_with('/') && !account.home.contains('\0'));
            }
        }

        #[test]
        fn a_listed_user_is_found_among_rubbish(
            before in proptest::collection::vec("[a-z:,\u{0}-\u{20}]{0,40}", 0..8),
            uid in 1..ID_MAX, gid in 0..ID_MAX,
        ) {
            let rubbish: String = before.iter().map(|line| format!("{}\n", line.replace('\n', ""))).collect();
            let passwd = format!("{rubbish}neutron:x:{uid}:{gid}::/var/lib/neutron:/bin/sh\n");
            let account = find(passwd.as_bytes(), b"", "neutron").unwrap();
            prop_assert_eq!((account.uid, account.gid), (uid, gid));
        }
    }
}
