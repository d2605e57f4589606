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

/// Reads an account file, at most [`MAX_FILE_BYTES`] of it. Bytes that are not UTF-8 are replaced.
///
/// # Errors
/// If it cannot be read.
pub fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
    let shell = fields.next().filter(|shell| !shell.is_empty()).unwrap_or("/bin/sh").to_owned();
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

/// /etc/passwd with the user in it, in place of whoever had the name or the user id.
#[must_use]
pub fn passwd_with(passwd: &str, user: &User, shell: &str) -> String {
    let mut text = without(passwd, |fields| fields[0] == user.name || number(fields.get(2)) == Some(user.uid));
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

/// /etc/group with a group of the user's group id, and the user a member of `sudo`.
///
/// A group that has the id already keeps its name: other files may mention it. One that has the
/// user's name but another id makes way.
#[must_use]
pub fn group_with(group: &str, user: &User) -> String {
    let mut text = without(group, |fields| fields[0] == user.name && number(fields.get(2)) != Some(user.gid));
    let has_group = text.lines().any(|line| number(line.split(':').nth(2)) == Some(user.gid));
    if !has_group {
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
        assert_eq!(group_with("sudo:x:27:\n", &user()), "sudo:x:27:agent\nagent:x:1000:\n");
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
