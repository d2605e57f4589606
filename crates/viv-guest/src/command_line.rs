//! The kernel's command line: what the host says before anything can be asked.

/// What carries the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// The virtio-serial port [`crate::link::PORT_NAME`].
    VirtioSerial,
    /// A vsock port, [`viv_proto::VSOCK_LINK_PORT`].
    Vsock,
}

/// The words of the kernel's command line that are meant for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandLine {
    /// `viv.link=virtio-serial` (the default) or `viv.link=vsock`; the last one counts.
    pub link: LinkKind,
    /// How many layers lie over the root image, as `viv.layers=NUMBER`; the last number counts.
    pub layers: u16,
    /// Whether the scratch disk outlives the machine, as `viv.disk=kept`.
    pub kept_disk: bool,
}

impl CommandLine {
    /// Reads a command line. Words it does not know belong to others.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parsed = Self { link: LinkKind::VirtioSerial, layers: 0, kept_disk: false };
        for word in text.split_ascii_whitespace() {
            match word {
                "viv.link=virtio-serial" => parsed.link = LinkKind::VirtioSerial,
                "viv.link=vsock" => parsed.link = LinkKind::Vsock,
                "viv.disk=kept" => parsed.kept_disk = true,
                _ => {
                    if let Some(number) = word.strip_prefix("viv.layers=").and_then(|number| number.parse().ok()) {
                        parsed.layers = number;
                    }
                }
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_each_counts_and_strange_words_are_left_alone() {
        let parsed = CommandLine::parse("quiet viv.link=vsock panic=-1 viv.link=virtio-serial viv.link=pigeon\n");
        assert_eq!(parsed, CommandLine { link: LinkKind::VirtioSerial, layers: 0, kept_disk: false });
        assert!(CommandLine::parse("quiet viv.disk=kept").kept_disk);
        assert_eq!(CommandLine::parse("viv.link=vsock").link, LinkKind::Vsock);
        assert_eq!(CommandLine::parse("").link, LinkKind::VirtioSerial);
        assert_eq!(CommandLine::parse("viv.layers=3 viv.layers=12 viv.layers=-1 viv.layers=many").layers, 12);
    }
}
