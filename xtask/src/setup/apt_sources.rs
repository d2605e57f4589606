//! Reading where apt gets its packages from, so that a further suite can be taken from the very
//! same place with the very same key. Both of apt's formats are read.

/// One source: what one stanza or one line names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// Where from; usually one.
    pub uris: Vec<String>,
    /// Suites, such as `bookworm` and `bookworm-updates`.
    pub suites: Vec<String>,
    /// Components, such as `main`.
    pub components: Vec<String>,
    /// The key or key file that signs it, verbatim; a deb822 key may span lines.
    pub signed_by: Option<String>,
}

impl Source {
    fn offers(&self, suite: &str) -> bool {
        self.suites.iter().any(|name| name == suite) && self.components.iter().any(|name| name == "main")
    }
}

/// The first of the sources that offers `main` of the suite.
pub fn find<'a>(sources: &'a [Source], suite: &str) -> Option<&'a Source> {
    sources.iter().find(|source| source.offers(suite))
}

/// A `.sources` file that offers `main` of `suite` from where `like` comes from.
pub fn render(like: &Source, suite: &str) -> String {
    let mut text = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n", like.uris.join(" "));
    if let Some(key) = &like.signed_by {
        text.push_str(&format!("Signed-By: {key}\n"));
    }
    text
}

/// Reads a `.list` file: one source a line.
pub fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let mut rest = line.strip_prefix("deb")?;
    if !rest.starts_with(char::is_whitespace) {
        return None; // `deb-src`, or something else altogether.
    }
    rest = rest.trim_start();
    let mut signed_by = None;
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned);
        rest = after;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source { uris: vec![words.next()?], suites: vec![words.next()?], components: words.collect(), signed_by })
}

/// Reads a `.sources` file: stanzas of fields.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let uncommented: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    uncommented.split(|line| line.trim().is_empty()).filter_map(parse_stanza).collect()
}

fn parse_stanza(lines: &[&str]) -> Option<Source> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut()?;
            value.push('\n');
            value.push_str(line);
        } else {
            let (name, value) = line.split_once(':')?;
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone());
    let words = |name: &str| field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let disabled = field("enabled").is_some_and(|value| ["no", "false", "0"].contains(&value.as_str()));
    if disabled || !words("types").iter().any(|kind| kind == "deb") {
        return None;
    }
    Some(Source {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a comment within a stanza
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/example.gpg

Types: deb-src
URIs: http://mirror.example/source
Suites: bookworm
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm-backports
Components: main

Types: deb deb-src
URIs: http://other.example/a http://other.example/b
Suites: noble
Components: main universe
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
";

    const ONE_LINE: &str = "\
# deb http://commented.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # the mirror
deb http://mirror.example/debian bookworm-backports main
debug is not a type
";

    #[test]
    fn deb822_stanzas() {
        let sources = parse_deb822(DEB822);
        assert_eq!(sources.len(), 2);
        let source = find(&sources, "bookworm").unwrap();
        assert_eq!(source.uris, ["http://mirror.example/debian"]);
        assert_eq!(source.signed_by.as_deref(), Some("/usr/share/keyrings/example.gpg"));
        assert_eq!(find(&sources, "bookworm-backports"), None, "a disabled stanza offers nothing");
        assert_eq!(sources[1].uris.len(), 2);
    }

    #[test]
    fn one_line_sources() {
        let sources = parse_one_line(ONE_LINE);
        assert_eq!(sources.len(), 2);
        assert_eq!(find(&sources, "bookworm").unwrap().signed_by.as_deref(), Some("/k.gpg"));
        assert!(find(&sources, "bookworm-backports").is_some());
    }

    #[test]
    fn a_further_suite_comes_from_the_same_place_with_the_same_key() {
        let sources = parse_deb822(DEB822);
        insta::assert_snapshot!(render(&sources[0], "bookworm-backports"), @r"
        Types: deb
        URIs: http://mirror.example/debian
        Suites: bookworm-backports
        Components: main
        Signed-By: /usr/share/keyrings/example.gpg
        ");
        // An embedded key is copied with its folding, so that the result reads back the same.
        let copied = parse_deb822(&render(&sources[1], "noble-backports"));
        assert_eq!(copied[0].signed_by, sources[1].signed_by);
        assert_eq!(copied[0].uris, sources[1].uris);
    }
}
