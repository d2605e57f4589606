use std::os::unix::fs::PermissionsExt;

use super::*;

const WANTED: Wanted<'_> =
    Wanted { registry: "registry.example:5000", host: "registry.example:5000", repository: "team/app" };

fn found(content: &str, wanted: Wanted<'_>) -> Result<Option<(String, String)>> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    fs::write(&file, content).unwrap();
    let helper = directory.path().join("docker-credential-test");
    let script = r#"#!/bin/sh
        read -r server
        case $server in
            registry.example:5000) echo '{"ServerURL":"x","Username":"helped","Secret":"s"}' ;;
            https://host.example/v1/) echo '{"Username":"<token>","Secret":"t"}' ;;
            *) echo 'credentials not found in native keychain'; exit 1 ;;
        esac"#;
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let access = RegistryAccess {
        credential_files: vec![directory.path().join("none.json"), file],
        helper_directories: vec![directory.path().to_path_buf()],
        ..RegistryAccess::anonymous()
    };
    Ok(find(&access, wanted)?.map(|credential| match credential {
        Credential::Password { user, password } => (user, password.expose().to_owned()),
        Credential::IdentityToken(token) => ("<token>".to_owned(), token.expose().to_owned()),
    }))
}

fn pair(user: &str, secret: &str) -> Option<(String, String)> {
    Some((user.to_owned(), secret.to_owned()))
}

#[test]
fn every_shape_of_entry() {
    let shapes = [
        (r#"{"auths":{"registry.example:5000":{"auth":"bWU6cDp3"}}}"#, pair("me", "p:w")),
        (r#"{"auths":{"registry.example:5000":{"auth":"bWU6cDp3AAA="}}}"#, pair("me", "p:w")),
        (r#"{"auths":{"https://registry.example:5000/v2/":{"username":"me","password":"w"}}}"#, pair("me", "w")),
        (r#"{"auths":{"registry.example:5000":{"auth":"bWU6cDp3","identitytoken":"t"}}}"#, pair("<token>", "t")),
        (r#"{"auths":{"registry.example":{"auth":"bWU6cDp3"}}}"#, None),
        (r#"{"auths":{"registry.example:5000":{}}}"#, None),
        ("{}", None),
        ("\n", None),
    ];
    for (content, expected) in shapes {
        assert_eq!(found(content, WANTED).unwrap(), expected, "{content}");
    }
}

#[test]
fn the_longest_name_counts() {
    let content = r#"{"auths":{
        "registry.example:5000":{"username":"host","password":"1"},
        "registry.example:5000/team":{"username":"team","password":"2"},
        "registry.example:5000/team/app":{"username":"app","password":"3"}}}"#;
    assert_eq!(found(content, WANTED).unwrap(), pair("app", "3"));
    assert_eq!(found(content, Wanted { repository: "team/other", ..WANTED }).unwrap(), pair("team", "2"));
    assert_eq!(found(content, Wanted { repository: "teams/app", ..WANTED }).unwrap(), pair("host", "1"));
}

#[test]
fn helpers() {
    let store = r#"{"auths":{"registry.example:5000":{}},"credsStore":"test"}"#;
    assert_eq!(found(store, WANTED).unwrap(), pair("helped", "s"));
    let other = Wanted { registry: "other.example", host: "other.example", repository: "x" };
    assert_eq!(found(store, other).unwrap(), None);
    let named = r#"{"credHelpers":{"default.example":"test"}}"#;
    let default = Wanted { registry: "default.example", host: "host.example", repository: "x" };
    assert_eq!(found(named, default).unwrap(), pair("<token>", "t"));
    assert_eq!(found(named, WANTED).unwrap(), None);
    let missing = found(r#"{"credsStore":"missing"}"#, WANTED).unwrap_err();
    assert_eq!(*missing.kind(), ErrorKind::MissingTool);
    assert_eq!(*found(r#"{"credsStore":"../../bin/sh"}"#, WANTED).unwrap_err().kind(), ErrorKind::MissingTool);
}

#[test]
fn a_helper_that_never_answers() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("helper");
    fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(run(&program, "x", Duration::from_millis(50)).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn no_error_has_a_secret() {
    for content in [
        r#"{"auths":{"registry.example:5000":{"auth":"hunter2"}}}"#,
        r#"{"auths":{"registry.example:5000":"hunter2"}}"#,
        r#"{"auths":{"registry.example:5000":{"auth":{"hunter2":1}}}}"#,
    ] {
        let error = found(content, WANTED).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
    let credential = Credential::new("me".to_owned(), Secret::new("hunter2".to_owned()));
    assert!(!format!("{credential:?}").contains("hunter2"));
}
