//! From a guest's request to an upstream's, without I/O: which upstream, who calls, what is left out.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Uri};
use subtle::{Choice, ConstantTimeEq};

use super::answer::{Fault, Trouble};
use super::credential::{Key, no_key};
use super::{Agent, Error, ErrorKind, LoginKind, Protocol};

/// Where clients put keys, by the names of headers.
const KEY_HEADERS: [&str; 4] = ["authorization", "x-api-key", "x-goog-api-key", "api-key"];

/// What concerns one connection alone (RFC 9110, section 7.6.1), or what the gateway decides itself:
/// `accept-encoding`, so that answers can be read, `content-length`, which the body knows,
/// `expect`, which was answered when the body was asked for.
const HOP_BY_HOP: [&str; 13] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What Anthropic asks for beside a login's token.
const ANTHROPIC_LOGIN: &str = "oauth-2025-04-20";

/// The address of an upstream, in parts.
#[derive(Debug, Clone)]
pub(super) struct Address {
    scheme: Scheme,
    authority: Authority,
    /// Without a slash at its end.
    prefix: String,
}

impl Address {
    /// Reads an upstream's URL.
    pub(super) fn parse(name: &str, url: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::new(ErrorKind::Specification, format!("the URL of the upstream `{name}` {why}"));
        let uri: Uri = url.parse().map_err(|error| wrong("cannot be read").source(error))?;
        let parts = uri.into_parts();
        let scheme = parts.scheme.filter(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
        let scheme = scheme.ok_or_else(|| wrong("is neither http nor https"))?;
        let authority = parts.authority.ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("has a user or a password in it").hint("name the key as the upstream's credential"));
        }
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.query().is_some() {
            return Err(wrong("has a query"));
        }
        Ok(Self { scheme, authority, prefix: path.path().trim_end_matches('/').to_owned() })
    }

    /// The address of a path below it.
    pub(super) fn join(&self, path_and_query: &str) -> Result<Uri, Trouble> {
        let path = format!("{}{path_and_query}", self.prefix);
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|_| Trouble::new(Fault::Request, "the path cannot be passed on"))
    }
}

/// `/NAME/rest` as the name and `/rest`.
pub(super) fn split(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('/')?;
    let end = path.find('/').unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    (!name.is_empty()).then_some((name, rest))
}

/// Whether a path stays below the one it is appended to.
pub(super) fn stays_below(path: &str) -> bool {
    path.split(['/', '\\']).all(|segment| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain != "." && plain != ".." && !plain.contains("%2f") && !plain.contains("%5c")
    })
}

/// A query without keys, and the keys that were in it.
pub(super) fn split_query(query: Option<&str>) -> (Option<String>, Vec<&str>) {
    let Some(query) = query else { return (None, Vec::new()) };
    let (keys, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| pair.starts_with("key="));
    let rest = (!rest.is_empty()).then(|| rest.join("&"));
    (rest, keys.into_iter().filter_map(|pair| pair.strip_prefix("key=")).collect())
}

/// Who presents one of these agents' tokens, wherever clients put keys. Every token is compared with every
/// candidate in the same time, wherever they differ.
pub(super) fn caller<'a>(agents: &'a [Agent], headers: &HeaderMap, in_query: &[&str]) -> Option<&'a Agent> {
    let mut candidates: Vec<&[u8]> = in_query.iter().map(|key| key.as_bytes()).collect();
    for name in KEY_HEADERS {
        for value in headers.get_all(name) {
            let bytes = value.as_bytes();
            let bearer = bytes.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
            candidates.push(bearer.map_or(bytes, |(_, token)| token.trim_ascii()));
        }
    }
    let mut caller = None;
    for agent in agents.iter().filter(|agent| !agent.token.is_empty()) {
        let token = agent.token.as_bytes();
        let matches = candidates.iter().fold(Choice::from(0), |any, candidate| any | token.ct_eq(candidate));
        if matches.into() {
            caller = Some(agent);
        }
    }
    caller
}

/// Whether it asks for a WebSocket (RFC 6455, section 4.1), or to speak anything else than HTTP/1.1.
pub(super) fn is_upgrade(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::CONNECT || headers.contains_key(header::UPGRADE)
}

/// Whether it asks for something to be made, so that it counts as a call.
pub(super) fn is_call(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The model in a path: `/v1beta/models/NAME:verb`.
pub(super) fn model_in_path(path: &str) -> Option<String> {
    let (_, rest) = path.rsplit_once("/models/")?;
    let (name, verb) = rest.rsplit_once(':')?;
    (!verb.contains('/')).then(|| super::meter::model_name(name)).flatten()
}

/// Whether what answers at a path makes tokens, so that their number can be estimated.
pub(super) fn makes_tokens(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    ["/messages", "/responses", "/completions", ":generateContent", ":streamGenerateContent"]
        .iter()
        .any(|end| path.ends_with(end))
}

/// Takes out of headers what must not be passed on: keys, and what concerns one connection.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    for name in KEY_HEADERS {
        headers.remove(name);
    }
    strip_connection(headers);
    headers.remove(header::ACCEPT_ENCODING);
}

/// Takes out of an answer's headers what concerns one connection. Its length stays: it is passed on as
/// it is told.
pub(super) fn strip_answer(headers: &mut HeaderMap) {
    let length = headers.get(header::CONTENT_LENGTH).cloned();
    strip_connection(headers);
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Puts the key where the provider wants it.
pub(super) fn put_key(headers: &mut HeaderMap, protocol: Protocol, key: &Key) -> Result<(), Trouble> {
    let secret = key.secret.expose();
    let bearer = || zeroize::Zeroizing::new(format!("Bearer {secret}"));
    match (&key.login, protocol) {
        (Some((LoginKind::Claude, _)), _) => {
            headers.insert(header::AUTHORIZATION, sensitive(&bearer())?);
            let name = HeaderName::from_static("anthropic-beta");
            let flags =
                headers.get_all(&name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
            if !flags.split(',').any(|flag| flag.trim() == ANTHROPIC_LOGIN) {
                headers.append(name, HeaderValue::from_static(ANTHROPIC_LOGIN));
            }
        }
        (Some((LoginKind::Codex, account)), _) => {
            headers.insert(header::AUTHORIZATION, sensitive(&bearer())?);
            headers.remove("chatgpt-account-id");
            if let Some(account) = account {
                headers.insert(HeaderName::from_static("chatgpt-account-id"), sensitive(account)?);
            }
        }
        (None, Protocol::Anthropic) => {
            headers.insert(HeaderName::from_static("x-api-key"), sensitive(secret)?);
        }
        (None, Protocol::OpenAi) => {
            headers.insert(header::AUTHORIZATION, sensitive(&bearer())?);
        }
        (None, Protocol::Gemini) => {
            headers.insert(HeaderName::from_static("x-goog-api-key"), sensitive(secret)?);
        }
    }
    Ok(())
}

fn sensitive(text: &str) -> Result<HeaderValue, Trouble> {
    let mut value = HeaderValue::from_str(text).map_err(|_| no_key("the host's key is none that a header can hold"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gateway::credential::Secret;

    fn agents() -> Vec<Agent> {
        ["one", "two", ""]
            .into_iter()
            .zip(0..)
            .map(|(token, number)| Agent { number, token: token.into(), budget: Default::default() })
            .collect()
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let name = |name: &str| name.parse::<HeaderName>().expect("a name");
        pairs.iter().map(|(key, value)| (name(key), value.parse().expect("a value"))).collect()
    }

    #[test]
    fn an_upstreams_address_is_one() {
        let join = |url: &str| Address::parse("x", url).expect(url).join("/v1/y?a=b").expect(url).to_string();
        assert_eq!(join("https://api.example"), "https://api.example/v1/y?a=b");
        assert_eq!(join("http://10.0.0.1:8000/base/"), "http://10.0.0.1:8000/base/v1/y?a=b");
        for url in ["", "api.example", "ftp://api.example", "https://u:p@api.example", "https://api.example/?k=1", "/x"]
        {
            let error = Address::parse("x", url).expect_err(url);
            assert_eq!(error.kind(), &ErrorKind::Specification);
            assert!(!error.to_string().contains("u:p"));
        }
    }

    #[test]
    fn a_path_is_an_upstreams_name_and_the_rest() {
        assert_eq!(split("/openai/v1/x"), Some(("openai", "/v1/x")));
        assert_eq!(split("/openai"), Some(("openai", "")));
        for path in ["/", "", "//x", "*"] {
            assert_eq!(split(path), None);
        }
        for path in ["/v1/..", "/../x", "/%2e%2E/x", "/.%2e/", "/./x", "/v1/..%2fx", "/a\\..\\b", "/%5c"] {
            assert!(!stays_below(path), "{path}");
        }
        assert!(stays_below("/v1/models/gemini-2.5-pro:x...y"));
    }

    #[test]
    fn a_caller_is_known_by_a_token_wherever_it_is() {
        let agents = agents();
        let number =
            |pairs: &[(&str, &str)], query: &[&str]| caller(&agents, &headers(pairs), query).map(|agent| agent.number);
        assert_eq!(number(&[("x-api-key", "one")], &[]), Some(0));
        assert_eq!(number(&[("authorization", "Bearer two")], &[]), Some(1));
        assert_eq!(number(&[("authorization", "bearer  two ")], &[]), Some(1));
        assert_eq!(number(&[("x-goog-api-key", "two"), ("authorization", "Bearer real")], &[]), Some(1));
        assert_eq!(number(&[], &["one"]), Some(0));
        for pairs in [
            &[("x-api-key", "on")],
            &[("x-api-key", "onee")],
            &[("x-api-key", "")],
            &[("authorization", "Bearer ")],
            &[("cookie", "one")],
        ] {
            assert_eq!(number(pairs, &[]), None, "{pairs:?}");
        }
        assert_eq!(number(&[], &[""]), None);
    }

    #[test]
    fn keys_leave_the_query_and_nothing_else_does() {
        assert_eq!(split_query(Some("alt=sse&key=one&x=%20&key=")), (Some("alt=sse&x=%20".into()), vec!["one", ""]));
        assert_eq!(split_query(Some("key=one")), (None, vec!["one"]));
        assert_eq!(split_query(Some("a&&b=key=c")), (Some("a&&b=key=c".into()), vec![]));
        assert_eq!(split_query(None), (None, vec![]));
    }

    #[test]
    fn what_is_passed_on_is_everything_but_keys_and_the_connections_own() {
        let mut passed = headers(&[
            ("authorization", "Bearer one"),
            ("x-api-key", "one"),
            ("x-goog-api-key", "one"),
            ("api-key", "one"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("accept-encoding", "gzip"),
            ("proxy-authorization", "Basic x"),
            ("host", "127.0.0.1:4180"),
            ("content-length", "5"),
            ("anthropic-version", "2023-06-01"),
            ("x-stainless-lang", "js"),
            ("x-unknown", "kept"),
        ]);
        strip_request(&mut passed);
        let mut names: Vec<&str> = passed.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["anthropic-version", "x-stainless-lang", "x-unknown"]);
    }

    #[test]
    fn a_key_is_put_where_the_provider_wants_it_and_is_not_shown() {
        let key = |login| Key { secret: Arc::new(Secret::new("canary".into())), login };
        let codex = Some((LoginKind::Codex, Some("account".to_owned())));
        let mut shown = String::new();
        for (protocol, login) in [
            (Protocol::Anthropic, None),
            (Protocol::OpenAi, None),
            (Protocol::Gemini, None),
            (Protocol::Anthropic, Some((LoginKind::Claude, None))),
            (Protocol::OpenAi, codex),
        ] {
            let mut headers = headers(&[("anthropic-beta", "a,b"), ("chatgpt-account-id", "guest's")]);
            put_key(&mut headers, protocol, &key(login)).expect("a header");
            assert!(!format!("{headers:?}").contains("canary"));
            let mut lines: Vec<String> =
                headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().expect("text"))).collect();
            lines.sort_unstable();
            shown += &format!("{}\n", lines.join("; "));
        }
        insta::assert_snapshot!(shown, @r"
        anthropic-beta=a,b; chatgpt-account-id=guest's; x-api-key=canary
        anthropic-beta=a,b; authorization=Bearer canary; chatgpt-account-id=guest's
        anthropic-beta=a,b; chatgpt-account-id=guest's; x-goog-api-key=canary
        anthropic-beta=a,b; anthropic-beta=oauth-2025-04-20; authorization=Bearer canary; chatgpt-account-id=guest's
        anthropic-beta=a,b; authorization=Bearer canary; chatgpt-account-id=account
        ");
        let broken = Key { secret: Arc::new(Secret::new("a\nb".into())), login: None };
        assert_eq!(put_key(&mut HeaderMap::new(), Protocol::OpenAi, &broken).expect_err("no header").fault, Fault::Key);
    }

    #[test]
    fn a_model_may_be_in_the_path() {
        assert_eq!(
            model_in_path("/v1beta/models/gemini-2.5-pro:streamGenerateContent").as_deref(),
            Some("gemini-2.5-pro")
        );
        assert_eq!(model_in_path("/v1/models/gpt-5"), None);
        assert_eq!(model_in_path("/v1/messages"), None);
        assert!(makes_tokens("/v1/messages") && makes_tokens("/v1beta/models/x:generateContent"));
        assert!(!makes_tokens("/v1/messages/count_tokens") && !makes_tokens("/v1/files"));
    }
}
