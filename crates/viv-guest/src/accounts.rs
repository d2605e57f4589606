//! /etc/passwd and its kin, read and edited as text: there is no name service in a static PID 1.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use viv_proto::message::User;

/// The most that is read of an account file, in bytes.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// A line of /etc/passwd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell; `/bin/sh` where the line names none.
    pub shell: String,
}

/// Where an account begins that no file mentions: what OCI images have for a user id of their own
/// (<https://github.com/opencontainers/image-spec/blob/main/config.md>, `User`).
const NOWHERE: &str = "/";

/// The shell of accounts that have no other, as passwd(5) has it.
pub const DEFAULT_SHELL: &str = "/bin/sh";

/// Reads an account file, at most [`MAX_FILE_BYTES`] of it. Bytes that are not UTF-8 are replaced.
///
/// # Errors
/// If it cannot be read.
pub fn read(path: &Path) -> io::Result<String> {
    read_from(File::open(path)?)
}

/// The same of an open file.
///
/// # Errors
/// If it cannot be read.
pub fn read_from(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Who a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user. The group id is that of the program, which may be another than in /etc/passwd.
    pub account: Account,
    /// All groups, that of the program first.
    pub groups: Vec<u32>,
}

/// Why nobody is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// There is no such user.
    User(String),
    /// There is no such group.
    Group(String),
}

/// Who is meant by `USER`, `UID`, `USER:GROUP` or `UID:GID`, in any combination.
///
/// A number that no file mentions is taken as it is, its group being root's, its home `/`. A group that is
/// named is the only one.
///
/// # Errors
/// The name that neither the files know nor is a number.
pub fn identify(passwd: &str, group: &str, who: &str) -> Result<Identity, Unknown> {
    let (user, wanted_group) = match who.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (who, None),
    };
    let stranger = || {
        let uid = user.parse().ok()?;
        let (name, home, shell) = (user.to_owned(), NOWHERE.to_owned(), DEFAULT_SHELL.to_owned());
        Some(Account { name, uid, gid: 0, home, shell })
    };
    let unknown_user = || Unknown::User(user.to_owned());
    let mut account =
        find(passwd, user).or_else(stranger).filter(|account| is_id(account.uid)).ok_or_else(unknown_user)?;
    let groups = match wanted_group {
        None => groups_of(group, &account.name, account.gid),
        Some(wanted) => {
            account.gid = find_group(group, wanted)
                .or_else(|| wanted.parse().ok())
                .filter(|&gid| is_id(gid))
                .ok_or_else(|| Unknown::Group(wanted.to_owned()))?;
            vec![account.gid]
        }
    };
    Ok(Identity { account, groups })
}

/// The highest number means "as before" to the kernel, which here is root.
fn is_id(number: u32) -> bool {
    number != u32::MAX
}

fn find_group(group: &str, name: &str) -> Option<u32> {
    let fields = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.filter(|fields| fields[0] == name).find_map(|fields| number(fields.get(2)))
}

/// Finds an account by its name or, failing that, by its user id in decimal.
#[must_use]
pub fn find(passwd: &str, who: &str) -> Option<Account> {
    let accounts = || passwd.lines().filter_map(parse_account);
    accounts().find(|account| account.name == who).or_else(|| {
        let uid: u32 = who.parse().ok()?;
        accounts().find(|account| account.uid == uid)
    })
}

fn parse_account(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let _password = fields.next()?;
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let _comment = fields.next()?;
    let home = fields.next().filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    let shell = fields.next().filter(|shell| !shell.is_empty()).unwrap_or(DEFAULT_SHELL).to_owned();
    Some(Account { name, uid, gid, home, shell })
}

/// The groups of a user: the primary one first, then those that list the name. At most 1024.
#[must_use]
pub fn groups_of(group: &str, name: &str, primary: u32) -> Vec<u32> {
    let mut groups = vec![primary];
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [_, _, gid, members] = fields[..]
            && members.split(',').any(|member| member == name)
            && let Ok(gid) = gid.parse()
            && !groups.contains(&gid)
            && groups.len() < 1024
        {
            groups.push(gid);
        }
    }
    groups
}

/// Whether a name may stand in account files and in sudoers: `[a-z_][a-z0-9_-]*`, up to 32 bytes.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
}

/// Root's home directory where an image has no root.
pub const ROOT_HOME: &str = "/root";

/// Whether there is anyone with root's id.
#[must_use]
pub fn has_root(passwd: &str) -> bool {
    passwd.lines().filter_map(parse_account).any(|account| account.uid == 0)
}

/// /etc/passwd with root in it, if it is not, and the user, in place of whoever had the name or the user id.
#[must_use]
pub fn passwd_with(passwd: &str, user: &User, shell: &str) -> String {
    let mut text = without(passwd, |fields| fields[0] == user.name || number(fields.get(2)) == Some(user.uid));
    if !has_root(&text) {
        text.insert_str(0, &format!("root:x:0:0:root:{ROOT_HOME}:{shell}\n"));
    }
    text.push_str(&format!("{}:x:{}:{}::{}:{shell}\n", user.name, user.uid, user.gid, user.home));
    text
}

/// /etc/shadow with the user in it: no password, not locked.
#[must_use]
pub fn shadow_with(shadow: &str, user: &User) -> String {
    let mut text = without(shadow, |fields| fields[0] == user.name);
    text.push_str(&format!("{}:*:19000:0:99999:7:::\n", user.name));
    text
}

/// /etc/group with a group of the user's group id and one of root's, and the user a member of `sudo`.
///
/// A group that has the id already keeps its name: other files may mention it. One that has the
/// user's name but another id makes way.
#[must_use]
pub fn group_with(group: &str, user: &User) -> String {
    let mut text = without(group, |fields| fields[0] == user.name && number(fields.get(2)) != Some(user.gid));
    let has_group = |text: &str, gid| text.lines().any(|line| number(line.split(':').nth(2)) == Some(gid));
    if !has_group(&text, 0) {
        text.insert_str(0, "root:x:0:\n");
    }
    if !has_group(&text, user.gid) {
        text.push_str(&format!("{}:x:{}:\n", user.name, user.gid));
    }
    let mut edited = String::with_capacity(text.len() + 64);
    for line in text.lines() {
        edited.push_str(line);
        if line.starts_with("sudo:") && !line.split([':', ',']).skip(3).any(|member| member == user.name) {
            if !line.ends_with(':') {
                edited.push(',');
            }
            edited.push_str(&user.name);
        }
        edited.push('\n');
    }
    edited
}

/// The lines for which `unwanted` is false, each with its newline.
fn without(text: &str, unwanted: impl Fn(&[&str]) -> bool) -> String {
    let mut kept = String::with_capacity(text.len() + 128);
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if !unwanted(&fields) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

fn number(field: Option<impl AsRef<str>>) -> Option<u32> {
    field?.as_ref().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
                          node:x:1000:1000::/home/node:/bin/sh\nbroken\nalso:broken:x\nagent:x:1001:1001::/x:\n";

    fn user() -> User {
        User { name: "agent".into(), uid: 1000, gid: 1000, home: "/home/agent".into() }
    }

    #[test]
    fn accounts_are_found_by_name_then_by_number() {
        assert_eq!(find(PASSWD, "root").unwrap().shell, "/bin/bash");
        assert_eq!(find(PASSWD, "1000").unwrap().name, "node");
        assert_eq!(find(PASSWD, "agent").unwrap().shell, "/bin/sh");
        assert_eq!(find(PASSWD, "broken"), None);
        assert_eq!(find(PASSWD, ""), None);
        assert_eq!(find("", "root"), None);
    }

    #[test]
    fn the_user_replaces_whoever_has_its_name_or_number() {
        let edited = passwd_with(PASSWD, &user(), "/bin/bash");
        assert_eq!(
            edited,
            "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nbroken\nalso:broken:x\n\
             agent:x:1000:1000::/home/agent:/bin/bash\n"
        );
        assert_eq!(passwd_with(&edited, &user(), "/bin/bash"), edited);
        assert_eq!(
            shadow_with("root:*:1:::::\nagent:!:2:::::", &user()),
            "root:*:1:::::\nagent:*:19000:0:99999:7:::\n"
        );
    }

    #[test]
    fn groups_keep_the_name_they_had() {
        let group = "root:x:0:\nsudo:x:27:someone\nusers:x:100:\nagent:x:1001:\n";
        assert_eq!(group_with(group, &user()), "root:x:0:\nsudo:x:27:someone,agent\nusers:x:100:\nagent:x:1000:\n");
        let of_users = User { gid: 100, ..user() };
        let edited = group_with(group, &of_users);
        assert_eq!(edited, "root:x:0:\nsudo:x:27:someone,agent\nusers:x:100:\n");
        assert_eq!(group_with(&edited, &of_users), edited);
        assert_eq!(groups_of(&edited, "agent", 100), [100, 27]);
        assert_eq!(group_with("sudo:x:27:\n", &user()), "root:x:0:\nsudo:x:27:agent\nagent:x:1000:\n");
    }

    #[test]
    fn an_image_without_accounts_gets_root_and_the_user() {
        assert_eq!(
            passwd_with("", &user(), "/bin/sh"),
            "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000::/home/agent:/bin/sh\n"
        );
        assert_eq!(group_with("", &user()), "root:x:0:\nagent:x:1000:\n");
        let toor = "toor:x:0:0:::\n";
        assert_eq!(passwd_with(toor, &user(), "/bin/sh"), format!("{toor}agent:x:1000:1000::/home/agent:/bin/sh\n"));
    }

    #[test]
    fn users_are_meant_by_names_and_numbers_with_and_without_a_group() {
        let group = "root:x:0:\nstaff:x:50:node\nbroken\nnode:x:1000:\n";
        let who = |who: &str| {
            let Identity { account, groups } = identify(PASSWD, group, who)?;
            assert_eq!(groups[0], account.gid);
            Ok((account.name, account.uid, groups))
        };
        assert_eq!(who("node"), Ok(("node".into(), 1000, vec![1000, 50])));
        assert_eq!(who("1000"), who("node"));
        assert_eq!(who("node:staff"), Ok(("node".into(), 1000, vec![50])));
        assert_eq!(who("1000:4242"), Ok(("node".into(), 1000, vec![4242])));
        assert_eq!(who("4242:node"), Ok(("4242".into(), 4242, vec![1000])));
        assert_eq!(who("4242"), Ok(("4242".into(), 4242, vec![0])));
        assert_eq!(identify(PASSWD, group, "4242").unwrap().account.home, "/");
        for nobody in ["nobody", "", ":50", "-1", "4294967295", "4294967296", "nobody:staff"] {
            assert!(matches!(who(nobody), Err(Unknown::User(_))), "{nobody}");
        }
        for nothing in ["node:", "node:none", "node:4294967295", "node:50:50"] {
            assert!(matches!(who(nothing), Err(Unknown::Group(_))), "{nothing}");
        }
    }

    #[test]
    fn names_that_would_mean_something_else_are_refused() {
        for name in ["agent", "_x", "a-b_c9"] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in ["", "Agent", "9a", "a:b", "a b", "a\n", "ALL,", "-a", &"a".repeat(33)] {
            assert!(!is_valid_name(name), "{name}");
        }
    }
}
