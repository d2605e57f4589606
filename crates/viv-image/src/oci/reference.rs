//! References, read by hand into the library's type: its own reading compiles a regular expression, which takes
//! 50 ms, and every start with an image reads one.
//!
//! The grammar is <https://pkg.go.dev/github.com/distribution/reference#pkg-overview>.

use oci_spec::distribution::Reference;

use super::digest::Digest;
use crate::error::{Error, ErrorKind, Result};

/// What Docker and podman mean where no registry is named: part of what a reference means.
const DEFAULT_REGISTRY: &str = "docker.io";

/// The repository of names without a slash there.
const DEFAULT_NAMESPACE: &str = "library";

const DEFAULT_TAG: &str = "latest";

/// Bytes of a name, its registry included.
const MAX_NAME_BYTES: usize = 255;

/// Bytes of a tag.
const MAX_TAG_BYTES: usize = 128;

/// Reads `[HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST]`.
///
/// # Errors
/// [`ErrorKind::BadReference`].
pub(crate) fn parse(text: &str) -> Result<Reference> {
    let bad = |why: &str| {
        let shown: String = text.escape_debug().take(300).collect();
        Error::new(ErrorKind::BadReference, format!("`{shown}` names no image: {why}"))
            .hint("give [HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST], the name in small letters")
    };
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|why| bad(&why.to_string()))?)),
        None => (text, None),
    };
    // A colon before a slash is a port's.
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].split_once(':') {
        Some((last, tag)) => (&rest[..slash + last.len()], Some(tag)),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(bad("its tag has characters that no tag has, or too many"));
    }
    let is_host = |part: &&str| part.contains(['.', ':']) || *part == "localhost";
    let (registry, repository) = match name.split_once('/') {
        Some((host, rest)) if is_host(&host) => (host, rest.to_owned()),
        Some(_) => (DEFAULT_REGISTRY, name.to_owned()),
        None => (DEFAULT_REGISTRY, format!("{DEFAULT_NAMESPACE}/{name}")),
    };
    // Names of one part are in the namespace of that registry also where it is named.
    let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        format!("{DEFAULT_NAMESPACE}/{repository}")
    } else {
        repository
    };
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(bad("its name is empty, or too long"));
    }
    if !is_registry(registry) {
        return Err(bad("its registry is no host"));
    }
    if !repository.split('/').all(is_component) {
        return Err(bad("its name has characters that no name has there"));
    }
    let (registry, tag) = (registry.to_owned(), tag.map(str::to_owned));
    Ok(match (tag, digest) {
        (Some(tag), Some(digest)) => Reference::with_tag_and_digest(registry, repository, tag, digest.to_string()),
        (None, Some(digest)) => Reference::with_digest(registry, repository, digest.to_string()),
        (tag, None) => Reference::with_tag(registry, repository, tag.unwrap_or_else(|| DEFAULT_TAG.to_owned())),
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG_BYTES
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || b".-".contains(&byte))
}

/// `HOST[:PORT]`.
fn is_registry(registry: &str) -> bool {
    let (host, port) = registry.split_once(':').map_or((registry, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))
}

/// Small letters and digits, apart from each other by one dot, one or two underscores, or dashes.
fn is_component(component: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(plain))
        && bytes
            .split(plain)
            .all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn as_docker_reads_them() {
        for (text, whole) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("me/app", "docker.io/me/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("host.example:5000/a/b__c/d--e.f:T_1", "host.example:5000/a/b__c/d--e.f:T_1"),
        ] {
            assert_eq!(parse(text).unwrap().whole(), whole);
        }
        let pinned = parse(&format!("host.example/a:1@{DIGEST}")).unwrap();
        assert_eq!((pinned.tag(), pinned.digest()), (Some("1"), Some(DIGEST)));
        assert_eq!(parse(&format!("a@{DIGEST}")).unwrap().tag(), None);
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            ":",
            "/",
            "A",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:-",
            "a@",
            "a@sha256:0",
            "-a",
            "a.",
            "a..b",
            "a___b",
            "../a",
            "host.example/../a",
            "host.example:x/a",
            "host.example:99999/a",
            "-h.example/a",
            "a b",
            "a\n",
            "\u{e9}",
            "http://a",
            "[::1]/a",
        ] {
            assert_eq!(parse(text).map_err(|error| *error.kind()), Err(ErrorKind::BadReference), "{text}");
        }
        parse(&"a".repeat(256)).unwrap_err();
        parse(&format!("a:{}", "t".repeat(129))).unwrap_err();
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_what_the_library_takes_it_for(
            text in "([a-z.]{1,4}(:[0-9]{1,5})?/)?([a-zA-Z0-9._-]{1,6}/){0,2}[a-z0-9._-]{0,6}(:[a-zA-Z0-9._-]{0,4})?(@sha256:[0-9a-f]{64})?",
        ) {
            if let Ok(reference) = parse(&text) {
                prop_assert_eq!(&reference, &text.parse::<Reference>().unwrap());
                prop_assert_eq!(&parse(&reference.whole()).unwrap(), &reference);
            }
        }
    }
}
