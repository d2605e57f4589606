//! The configuration: fragments that ask for what is needed, over a kernel of nothing.
//!
//! Kconfig drops without a word what a kernel does not have or what lacks something it depends on.
//! So what came of it is compared with what was asked for, and a difference is an error by name.

use std::collections::BTreeMap;

/// The fragments, in the order they are read. Each says why it asks for what.
const FRAGMENTS: [&str; 7] = [
    include_str!("../../kernel/10-machine.config"),
    include_str!("../../kernel/20-programs.config"),
    include_str!("../../kernel/30-files.config"),
    include_str!("../../kernel/40-network.config"),
    include_str!("../../kernel/50-containers.config"),
    include_str!("../../kernel/60-tracing.config"),
    include_str!("../../kernel/70-virtualization.config"),
];

/// All fragments as one.
pub(crate) fn wanted() -> String {
    FRAGMENTS.join("\n")
}

/// The settings of a configuration file; what is not set counts as `n`.
fn settings(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(name, _)| name.starts_with("CONFIG_"))
        .collect()
}

/// What the resulting configuration has differently from what is wanted, as clauses.
pub(crate) fn differences(wanted: &str, result: &str) -> Vec<String> {
    let result = settings(result);
    settings(wanted)
        .into_iter()
        .filter_map(|(name, value)| {
            let found = result.get(name).copied().unwrap_or("n");
            (found != value).then(|| format!("{name} is {found} instead of {value}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named() {
        let wanted = "# why\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=64\nCONFIG_D=\"x\"\nCONFIG_E=n\n";
        let result =
            "#\n# Automatically generated\n#\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=64\nCONFIG_D=\"x\"\n";
        assert_eq!(differences(wanted, result), Vec::<String>::new());
        let result = "# CONFIG_A is not set\nCONFIG_C=8\nCONFIG_D=\"x\"\nCONFIG_E=y\n";
        assert_eq!(
            differences(wanted, result),
            ["CONFIG_A is n instead of y", "CONFIG_C is 8 instead of 64", "CONFIG_E is y instead of n"]
        );
    }

    #[test]
    fn every_group_says_why() {
        for fragment in FRAGMENTS {
            for group in fragment.split("\n\n") {
                assert!(group.trim_start().starts_with("# "), "no reason given:\n{group}");
            }
            let odd = fragment.lines().find(|line| {
                let setting = line.strip_prefix("CONFIG_").and_then(|line| line.split_once('='));
                !line.is_empty() && !line.starts_with("# ") && setting.is_none()
            });
            assert_eq!(odd, None);
        }
    }

    #[test]
    fn nothing_is_asked_for_twice() {
        let text = wanted();
        let lines = text.lines().filter(|line| line.starts_with("CONFIG_")).count();
        assert_eq!(settings(&text).len(), lines);
    }

    #[test]
    fn what_viv_cannot_do_without_is_asked_for() {
        let text = wanted();
        let settings = settings(&text);
        for name in
            ["PVH", "ACPI", "PCI_MMCONFIG", "VIRTIO_PCI", "VIRTIO_BLK", "VIRTIO_CONSOLE", "VIRTIO_FS", "EROFS_FS"]
        {
            assert_eq!(settings.get(format!("CONFIG_{name}").as_str()), Some(&"y"), "{name}");
        }
        assert_eq!(settings.get("CONFIG_MODULES"), Some(&"n"));
        // As many as `viv run --cpus` takes.
        assert_eq!(settings.get("CONFIG_NR_CPUS"), Some(&"64"));
    }
}
