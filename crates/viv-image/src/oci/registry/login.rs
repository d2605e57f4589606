//! Answering a registry that wants to know who asks: a password, or a token fetched with one
//! (<https://distribution.github.io/distribution/spec/auth/token/>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use url::Url;

use super::super::credentials::{Credential, Secret};
use super::Result;
use super::http::{Broken, Http};
use crate::error::{Error, ErrorKind};

/// A larger answer is no token's. Bytes.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    /// A token from `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

#[derive(Deserialize)]
struct Answer {
    token: Option<Secret>,
    access_token: Option<Secret>,
}

impl Challenge {
    /// The one of an answer's challenges that can be met; a token's first.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut found = None;
        for header in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = header.to_str() else { continue };
            // Whoever has a scheme that is not understood may have another beside it.
            for challenge in http_auth::parse_challenges(text).unwrap_or_default() {
                let value = |name: &str| {
                    let mut parameters = challenge.params.iter();
                    parameters.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    if let Some(realm) = value("realm") {
                        return Some(Self::Bearer { realm, service: value("service"), scope: value("scope") });
                    }
                } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                    found = Some(Self::Basic);
                }
            }
        }
        found
    }
}

/// What goes into the Authorization header; `Broken` if whoever gives out tokens cannot be reached.
///
/// # Errors
/// [`ErrorKind::Unauthorized`] without a login where one is needed, or with one that is not accepted.
pub(super) async fn answer(
    http: &Http,
    challenge: &Challenge,
    credential: Option<&Credential>,
    insecure: bool,
    repository: &str,
) -> Result<Result<HeaderValue, Broken>> {
    match (challenge, credential) {
        (Challenge::Basic, Some(Credential::Password { user, password })) => basic(user, password).map(Ok),
        (Challenge::Basic, _) => Err(Error::new(ErrorKind::Unauthorized, "the registry wants a name and a password")),
        (Challenge::Bearer { realm, service, scope }, _) => {
            let scope = scope.clone().unwrap_or_else(|| format!("repository:{repository}:pull"));
            let request = token_request(realm, service.as_deref(), &scope, credential, insecure)?;
            let response = match http.send(request).await {
                Ok(response) => response,
                Err(broken) => return Ok(Err(broken)),
            };
            let status = response.status();
            if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                return Ok(Err(Broken(format!("whoever gives out tokens answered {status}"))));
            }
            if !status.is_success() {
                let message = format!("the registry's logins were not accepted ({status})");
                return Err(Error::new(ErrorKind::Unauthorized, message));
            }
            let body = match http.collect(response.into_body(), MAX_ANSWER_BYTES).await {
                Ok(body) => body,
                Err(broken) => return Ok(Err(broken)),
            };
            let answer: Option<Answer> = serde_json::from_slice(&body).ok();
            let token = answer.and_then(|answer| answer.token.or(answer.access_token));
            let token = token.ok_or_else(|| Error::new(ErrorKind::Download, "whoever gives out tokens gave none"))?;
            secret_header(format!("Bearer {}", token.expose())).map(Ok)
        }
    }
}

fn token_request(
    realm: &str,
    service: Option<&str>,
    scope: &str,
    credential: Option<&Credential>,
    insecure: bool,
) -> Result<Request<Full<Bytes>>> {
    let bad = || Error::new(ErrorKind::Download, "the registry names a place of tokens that cannot be used");
    let mut url = Url::parse(realm).map_err(|_| bad())?;
    // A password must not be sent in clear because a registry says so.
    if !(url.scheme() == "https" || url.scheme() == "http" && insecure) {
        return Err(bad());
    }
    let build =
        |request: hyper::http::request::Builder, body: String| request.body(Full::from(body)).map_err(|_| bad());
    if let Some(Credential::IdentityToken(token)) = credential {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("client_id", "viv").append_pair("scope", scope);
        form.append_pair("refresh_token", token.expose());
        if let Some(service) = service {
            form.append_pair("service", service);
        }
        let request = Request::builder().method(Method::POST).uri(url.as_str());
        return build(request.header(CONTENT_TYPE, "application/x-www-form-urlencoded"), form.finish());
    }
    if let Some(service) = service {
        url.query_pairs_mut().append_pair("service", service);
    }
    // A token for several scopes is asked for one by one.
    for scope in scope.split_ascii_whitespace() {
        url.query_pairs_mut().append_pair("scope", scope);
    }
    let mut request = Request::builder().uri(url.as_str());
    if let Some(Credential::Password { user, password }) = credential {
        request = request.header(AUTHORIZATION, basic(user, password)?);
    }
    build(request, String::new())
}

fn basic(user: &str, password: &Secret) -> Result<HeaderValue> {
    secret_header(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose()))))
}

fn secret_header(text: String) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Error::new(ErrorKind::Unauthorized, "a login has characters that cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn challenges() {
        let bearer = r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry".to_owned()),
            scope: Some("repository:a/b:pull".to_owned()),
        };
        assert_eq!(challenge(&[bearer]).unwrap(), expected);
        assert_eq!(challenge(&["Negotiate", r#"Basic realm="x""#, bearer]).unwrap(), expected);
        assert_eq!(challenge(&[r#"basic realm="x""#]).unwrap(), Challenge::Basic);
        for none in ["", "Bearer", "Digest realm=\"x\"", "\u{7f}\"", "Bearer realm=\"unfinished"] {
            let value = HeaderValue::from_str(none);
            if let Ok(value) = value {
                assert_eq!(Challenge::of(&HeaderMap::from_iter([(WWW_AUTHENTICATE, value)])), None, "{none}");
            }
        }
    }

    #[test]
    fn what_is_sent_for_a_token() {
        let user = Credential::Password { user: "me".to_owned(), password: Secret::new("hunter2".to_owned()) };
        let ask = |realm: &str, credential: Option<&Credential>, insecure: bool| {
            token_request(realm, Some("the registry"), "repository:a/b:pull", credential, insecure)
        };
        let request = ask("https://auth.example/token?x=1", Some(&user), false).unwrap();
        assert_eq!(
            request.uri().to_string(),
            "https://auth.example/token?x=1&service=the+registry&scope=repository%3Aa%2Fb%3Apull"
        );
        assert_eq!(request.headers()[AUTHORIZATION], "Basic bWU6aHVudGVyMg==");
        assert!(!format!("{request:?}").contains("bWU6"), "{request:?}");
        let token = Credential::IdentityToken(Secret::new("t&t".to_owned()));
        assert_eq!(ask("https://auth.example/token", Some(&token), false).unwrap().method(), Method::POST);
        ask("http://127.0.0.1:1/token", None, true).unwrap();
        for bad in ["http://auth.example/token", "file:///x", "nonsense", ""] {
            ask(bad, Some(&user), false).unwrap_err();
        }
    }
}
