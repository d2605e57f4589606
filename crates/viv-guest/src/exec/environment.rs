//! The environment of a program.

use std::collections::BTreeMap;

use crate::accounts::Account;

/// Where programs are looked for when nobody says otherwise, after the user's own directory.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The defaults for a user, with those of the sandbox and then what was asked for over them.
#[must_use]
pub(super) fn environment(
    account: &Account,
    common: &BTreeMap<String, String>,
    asked: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let home = account.home.trim_end_matches('/');
    let mut environment = BTreeMap::from([
        ("HOME".to_owned(), account.home.clone()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("LOGNAME".to_owned(), account.name.clone()),
        ("PATH".to_owned(), format!("{home}/.local/bin:{SYSTEM_PATH}")),
        ("SHELL".to_owned(), account.shell.clone()),
        ("USER".to_owned(), account.name.clone()),
    ]);
    environment.extend(common.iter().chain(asked).map(|(name, value)| (name.clone(), value.clone())));
    environment
}

/// Whether the kernel and programs can make sense of a variable.
#[must_use]
pub(crate) fn is_valid(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_wins_over_the_defaults() {
        let account = Account {
            name: "agent".into(),
            uid: 1000,
            gid: 1000,
            home: "/home/agent".into(),
            shell: "/bin/bash".into(),
        };
        let asked = BTreeMap::from([("LANG".into(), "de_DE.UTF-8".into()), ("X".into(), String::new())]);
        let common = BTreeMap::from([("LANG".into(), "fr_FR.UTF-8".into()), ("Y".into(), "y".into())]);
        let environment: Vec<String> =
            environment(&account, &common, &asked).iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            environment,
            [
                "HOME=/home/agent",
                "LANG=de_DE.UTF-8",
                "LOGNAME=agent",
                "PATH=/home/agent/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "SHELL=/bin/bash",
                "USER=agent",
                "X=",
                "Y=y",
            ]
        );
    }

    #[test]
    fn variables_that_mean_nothing_are_refused() {
        assert!(is_valid("A", "b=c\n"));
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
            assert!(!is_valid(name, value));
        }
    }
}
