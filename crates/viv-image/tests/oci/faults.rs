//! Registries that stall, break off, lie, and want to know who asks.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use viv_image::{ErrorKind, RegistryAccess};

use crate::Fixture;
use crate::layout::{Layer, Layout, Packing, digest};
use crate::server::{Answer, Request, Server};

/// A megabyte that cannot be made smaller.
fn noise(seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    (0..1 << 20)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect()
}

/// An image of one layer, and the layer's digest.
fn image() -> (Layout, String) {
    let mut layout = Layout::default();
    let manifest = layout.image(&[Layer::new().file("noise", &noise(0)).tar()], Packing::Gzip, json!({}));
    layout.name("1", &manifest);
    let parsed: Value = serde_json::from_slice(layout.of(&manifest)).unwrap();
    let layer = parsed["layers"][0]["digest"].as_str().unwrap().to_owned();
    (layout, layer)
}

fn is_for(request: &Request, digest: &str) -> bool {
    request.path.ends_with(digest)
}

/// Of the requests for a layer, where each began.
fn starts(server: &Server, layer: &str) -> Vec<u64> {
    server.seen().iter().filter(|request| is_for(request, layer)).map(|request| request.range.unwrap_or(0)).collect()
}

fn source(server: &Server) -> String {
    format!("oci:{}/app:1", server.host)
}

#[test]
fn what_stalls_or_breaks_off_is_gone_on_with() {
    let (layout, layer) = image();
    let (wanted, tries) = (layer.clone(), AtomicUsize::new(0));
    let server = Server::start(layout, move |request| {
        if !is_for(request, &wanted) {
            return Answer::Usual;
        }
        match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::Stall(300_000),
            1 => Answer::Cut(200_000),
            2 => Answer::Other(503, Vec::new(), Vec::new()),
            _ => Answer::Usual,
        }
    });
    let fixture = Fixture::new();
    fixture.ensure(&source(&server)).unwrap();
    let starts = starts(&server, &layer);
    assert_eq!(starts, [0, 300_000, 500_000, 500_000]);
}

#[test]
fn a_server_without_ranges() {
    let (layout, layer) = image();
    let (wanted, tries) = (layer.clone(), AtomicUsize::new(0));
    let server = Server::start(layout, move |request| match is_for(request, &wanted) {
        true if tries.fetch_add(1, Ordering::SeqCst) == 0 => Answer::Cut(400_000),
        true => Answer::Whole,
        false => Answer::Usual,
    });
    Fixture::new().ensure(&source(&server)).unwrap();
    assert_eq!(starts(&server, &layer), [0, 400_000]);
}

#[test]
fn a_server_that_never_gets_on_is_given_up() {
    let (layout, layer) = image();
    let server = Server::start(layout, move |request| {
        if is_for(request, &layer) {
            Answer::Cut(if request.range.is_none() { 1000 } else { 0 })
        } else {
            Answer::Usual
        }
    });
    let fixture = Fixture::new();
    let (kind, message) = fixture.fails(&source(&server));
    assert_eq!(kind, ErrorKind::Download, "{message}");
    assert_eq!(fixture.count("blobs/"), 0, "{:?}", fixture.kept());
}

#[test]
fn a_corrupted_layer_is_refused_by_its_digest() {
    for place in [20, 500_000] {
        let (layout, layer) = image();
        let mut damaged = layout.blobs[&layer].clone();
        damaged[place] ^= 1;
        let found = digest(&damaged);
        let wanted = layer.clone();
        let server = Server::start(layout, move |request| match is_for(request, &wanted) {
            true => Answer::Other(200, Vec::new(), damaged.clone()),
            false => Answer::Usual,
        });
        let fixture = Fixture::new();
        let (kind, message) = fixture.fails(&source(&server));
        assert_eq!(kind, ErrorKind::DigestMismatch);
        let expected = format!("layer 1 of 1 ({layer}) is damaged: its digest is {found} instead of {layer}");
        assert_eq!(message, expected);
        assert_eq!(fixture.kept(), [""; 0]);
    }
}

#[test]
fn other_lies() {
    // A longer layer, a shorter one, another manifest than its digest, another configuration.
    let (layout, layer) = image();
    let (manifest, bytes) = (layout.entries[0]["digest"].as_str().unwrap().to_owned(), layout.blobs[&layer].clone());
    let parsed: Value = serde_json::from_slice(&layout.blobs[&manifest]).unwrap();
    let config = parsed["config"]["digest"].as_str().unwrap().to_owned();
    let longer = [bytes.as_slice(), b"more"].concat();
    for (path, body, reference) in [
        (layer.clone(), longer, ":1".to_owned()),
        (manifest.clone(), br#"{"schemaVersion":2}"#.to_vec(), format!("@{manifest}")),
        (config, b"{}".to_vec(), ":1".to_owned()),
    ] {
        let (layout, _) = image();
        let server = Server::start(layout, move |request| match is_for(request, &path) {
            true => Answer::Other(200, Vec::new(), body.clone()),
            false => Answer::Usual,
        });
        let fixture = Fixture::new();
        let (kind, message) = fixture.fails(&format!("oci:{}/app{reference}", server.host));
        assert_eq!(kind, ErrorKind::DigestMismatch, "{message}");
        assert_eq!(fixture.kept(), [""; 0]);
    }
    // A layer whose content is not what the configuration says.
    let mut layout = Layout::default();
    let manifest = layout.image(&[Layer::new().file("a", b"a").tar()], Packing::None, json!({}));
    let mut parsed: Value = serde_json::from_slice(layout.of(&manifest)).unwrap();
    parsed["layers"][0] = layout.blob(Layer::new().file("b", b"b").tar(), "application/vnd.oci.image.layer.v1.tar");
    let manifest = layout.json(&parsed, crate::layout::MANIFEST);
    layout.name("1", &manifest);
    let server = Server::start(layout, |_| Answer::Usual);
    let (kind, message) = Fixture::new().fails(&source(&server));
    assert_eq!(kind, ErrorKind::DigestMismatch);
    assert!(message.starts_with("what is packed in layer 1 of 1"), "{message}");
}

#[test]
fn hostile_documents() {
    let huge = vec![b' '; (4 << 20) + 1];
    let deep = vec![b'['; 1 << 20];
    let foreign = json!({"schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b""), "size": 0},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "digest": digest(b""), "size": 1, "urls": ["http://127.0.0.1:1/"]}]});
    for (body, kind) in [
        (huge, ErrorKind::Download),
        (deep, ErrorKind::UnsupportedImage),
        (br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(), ErrorKind::UnsupportedImage),
        (foreign.to_string().into_bytes(), ErrorKind::UnsupportedImage),
    ] {
        let server = Server::start(Layout::default(), move |_| Answer::Other(200, Vec::new(), body.clone()));
        let (found, message) = Fixture::new().fails(&source(&server));
        assert_eq!(found, kind, "{message}");
    }
}

#[test]
fn a_server_with_too_much_to_do() {
    let (layout, _) = image();
    let tries = AtomicUsize::new(0);
    let server = Server::start(layout, move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::Other(429, vec![("Retry-After", "0".to_owned())], b"slow down".to_vec()),
        1 => Answer::Other(500, Vec::new(), Vec::new()),
        _ => Answer::Usual,
    });
    Fixture::new().ensure(&source(&server)).unwrap();
    let (layout, _) = image();
    let server = Server::start(layout, |_| {
        let complaint = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"too many\u001b[31m pulls"}]}"#;
        Answer::Other(429, vec![("Retry-After", "3600".to_owned())], complaint.to_vec())
    });
    let (kind, message) = Fixture::new().fails(&source(&server));
    assert_eq!(kind, ErrorKind::Download);
    assert!(
        message.ends_with(": it wants to be left alone for 3600 seconds: TOOMANYREQUESTS: too many[31m pulls"),
        "{message}"
    );
    assert_eq!(server.seen().len(), 1);
}

/// A registry that wants a token; `expires` of them are turned down once they were used so often.
fn with_tokens(expires: usize) -> Server {
    let (layout, _) = image();
    let uses = AtomicUsize::new(0);
    Server::start(layout, move |request| {
        let port = request.path.strip_prefix("/token");
        if let Some(query) = port {
            // An anonymous one, and one for a user.
            let token = match (request.authorization.as_deref(), request.body.contains("refresh_token=identity")) {
                (Some("Basic bWU6c2VjcmV0"), _) | (_, true) => "user",
                (Some(_), _) => return Answer::Other(401, Vec::new(), b"no".to_vec()),
                (None, _) => "anonymous",
            };
            assert!(query.contains("scope=repository%3Aapp%3Apull") || request.method == "POST", "{query}");
            return Answer::Other(200, Vec::new(), json!({"token": token, "expires_in": 60}).to_string().into_bytes());
        }
        let accepted = request.authorization.as_deref() == Some("Bearer user");
        if accepted && (expires == 0 || uses.fetch_add(1, Ordering::SeqCst) != expires) {
            return Answer::Usual;
        }
        let challenge = r#"Bearer realm="http://REALM/token",service="tests",scope="repository:app:pull""#;
        Answer::Other(401, vec![("WWW-Authenticate", challenge.to_owned())], Vec::new())
    })
}

#[test]
fn tokens_are_fetched_with_a_login() {
    for (entry, works) in [
        (json!({"auth": "bWU6c2VjcmV0"}), true),
        (json!({"identitytoken": "identity"}), true),
        (json!({"auth": "bWU6d3Jvbmc="}), false),
        (json!({}), false),
    ] {
        for expires in [0, 1] {
            let server = with_tokens(expires);
            let mut fixture = Fixture::new();
            let file = fixture.path().join("config.json");
            std::fs::write(&file, json!({"auths": {server.host.clone(): entry}}).to_string()).unwrap();
            fixture.access = RegistryAccess { credential_files: vec![file], ..fixture.access };
            match fixture.ensure(&source(&server)) {
                Ok(_) => assert!(works, "{entry}"),
                Err(error) => {
                    assert!(!works, "{entry}: {error:?}");
                    assert_eq!(*error.kind(), ErrorKind::Unauthorized);
                    assert!(!format!("{error:?}").contains("d3Jvbmc"));
                }
            }
        }
    }
}

#[test]
fn logins_do_not_follow_to_other_hosts() {
    let (layout, layer) = image();
    let store = Server::start(layout, |_| Answer::Usual);
    let (layout, _) = image();
    let (wanted, place) = (layer.clone(), format!("http://{}/v2/app/blobs/{layer}?signature=1", store.host));
    let server = Server::start(layout, move |request| match request.authorization.as_deref() {
        None => Answer::Other(401, vec![("WWW-Authenticate", "Basic realm=\"x\"".to_owned())], Vec::new()),
        Some(_) if is_for(request, &wanted) => Answer::Other(307, vec![("Location", place.clone())], Vec::new()),
        Some(_) => Answer::Usual,
    });
    // The store finds blobs by the last part of their path.
    let mut fixture = Fixture::new();
    let file = fixture.path().join("config.json");
    std::fs::write(&file, json!({"auths": {server.host.clone(): {"auth": "bWU6c2VjcmV0"}}}).to_string()).unwrap();
    fixture.access = RegistryAccess { credential_files: vec![file], ..fixture.access };
    fixture.ensure(&source(&server)).unwrap();
    let seen = store.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].authorization, None);
}

#[test]
fn a_mirror_comes_first_and_may_lack_an_image() {
    let (layout, _) = image();
    let mirror = Server::start(layout, |_| Answer::Usual);
    let empty = Server::start(Layout::default(), |_| Answer::Usual);
    let mut fixture = Fixture::new();
    let file = fixture.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nlocation = \"registry.invalid\"\n[[registry.mirror]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        empty.host, mirror.host
    );
    std::fs::write(&file, text).unwrap();
    fixture.access = RegistryAccess { registry_files: vec![file], ..fixture.access };
    fixture.ensure("oci:registry.invalid/app:1").unwrap();
    assert_eq!((empty.seen().len(), mirror.seen().len()), (1, 3));
}
