//! Answers over snapshots of hosts.

use super::*;

fn rendered(answer: &Result<SetAnswer, Error>) -> String {
    let mut text = String::new();
    match answer {
        Err(error) => {
            text.push_str(&format!("error ({:?}): {error}\n", error.kind()));
            error.hints().iter().for_each(|hint| text.push_str(&format!("  {hint}\n")));
        }
        Ok(answer) => {
            for rule in &answer.rules {
                let private = if rule.private { "" } else { " (public addresses)" };
                text.push_str(&format!(
                    "allow {} by {}{private}\n",
                    rule.text(),
                    rule.origin.as_deref().unwrap_or("-")
                ));
            }
            answer.environment.iter().for_each(|(name, value)| text.push_str(&format!("{name}={value}\n")));
            answer.warnings.iter().for_each(|warning| text.push_str(&format!("! {warning}\n")));
            for file in &answer.files {
                let content: String = file.content.lines().map(|line| format!("  {line}\n")).collect();
                text.push_str(&format!("{} {:o}\n{content}", file.path, file.mode));
            }
        }
    }
    assert!(!text.contains("canary"), "a login shows:\n{text}");
    text
}

fn file(path: &str, text: &str) -> ConfigFile {
    ConfigFile { path: path.into(), project: path.starts_with("/project"), text: text.to_owned() }
}

fn variables(all: &[(&str, &str)]) -> Variables {
    Variables(all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

fn of_npm(client: NpmClient) -> String {
    rendered(&answer(SetName::Npm, &HostClients { npm: client, ..HostClients::default() }))
}

fn of_pip(client: PipClient) -> String {
    rendered(&answer(SetName::Pip, &HostClients { pip: client, ..HostClients::default() }))
}

fn of_cargo(client: CargoClient) -> String {
    rendered(&answer(SetName::Cargo, &HostClients { cargo: client, ..HostClients::default() }))
}

fn of_apt(client: AptClient) -> String {
    rendered(&answer(SetName::Apt, &HostClients { apt: client, ..HostClients::default() }))
}

fn of_git(repository: &[(&str, &str)], user: &[(&str, &str)]) -> String {
    let pairs = |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let git = GitClient { installed: true, repository: pairs(repository), user: pairs(user) };
    rendered(&answer(SetName::Git, &HostClients { git, ..HostClients::default() }))
}

#[test]
fn names() {
    for set in SetName::ALL {
        assert_eq!(set.to_string().parse::<SetName>().unwrap(), set);
    }
    let error = "@gem\u{1b}".parse::<SetName>().unwrap_err();
    assert_eq!(error.to_string(), "there is no set @gem");
    assert_eq!(error.hints(), ["the sets are @npm, @pip, @cargo, @apt, @git"]);
}

#[test]
fn nothing_is_installed() {
    let host = HostClients::default();
    let all: String = SetName::ALL.map(|set| rendered(&answer(set, &host))).concat();
    insta::assert_snapshot!(all);
}

#[test]
fn defaults() {
    let npm =
        NpmClient { installed: true, default_registry: Some("https://npm.example/".into()), ..NpmClient::default() };
    let pip = PipClient {
        installed: true,
        defaults: vec!["https://pip.example/simple".into(), "https://files.example/".into()],
        ..PipClient::default()
    };
    let cargo = CargoClient {
        installed: true,
        default_index: Some("https://index.example/".into()),
        indexes: vec![CargoIndex {
            host: "index.example".into(),
            places: vec!["https://crates.example/{crate}/{version}".into(), "https://api.example".into()],
        }],
        ..CargoClient::default()
    };
    let apt = AptClient {
        installed: true,
        repositories: vec![
            "http://deb.example/debian".into(),
            "file:/srv/deb".into(),
            "http://deb.example/security".into(),
        ],
        ..AptClient::default()
    };
    insta::assert_snapshot!([of_npm(npm), of_pip(pip), of_cargo(cargo), of_apt(apt)].join("---\n"));
}

#[test]
fn npm_with_a_company_mirror_scopes_and_logins() {
    insta::assert_snapshot!(of_npm(NpmClient {
        installed: true,
        default_registry: Some("https://npm.example/".into()),
        npmrc: vec![
            file("/etc/npmrc", "registry=https://old.example/\ncafile=/etc/x\n"),
            file(
                "/home/me/.npmrc",
                "registry = https://me:canary@mirror.example:8443/npm\n//mirror.example/:_authToken=canary\n\
                 @team:registry=https://team.example/\n_password=canary\n@x:registry=${NOT_SET}/x\n\
                 @env:registry=${NPM_HOST}/env\n[section]\nregistry=https://section.example/\n"
            ),
        ],
        environment: variables(&[("NPM_HOST", "https://host.example"), ("NPM_TOKEN", "canary")]),
        ..NpmClient::default()
    }));
}

#[test]
fn npm_by_variables_and_a_project_with_registries_of_its_own() {
    insta::assert_snapshot!(of_npm(NpmClient {
        npmrc: vec![
            file("/home/me/.npmrc", "registry=https://unused.example/\n@team:registry=https://team.example/\n"),
            file(
                "/project/.npmrc",
                "registry=https://evil.example/\n@team:registry=https://team.example/x\n@l:registry=http://127.0.0.1/\n"
            ),
        ],
        yarnrc: vec![file(
            "/project/.yarnrc.yml",
            "npmScopes:\n  a:\n    npmRegistryServer: \"https://yarn.example/\"\n"
        )],
        environment: variables(&[("npm_config_registry", "https://mirror.example/"), ("NPM_CONFIG_OTHER", "canary")]),
        ..NpmClient::default()
    }));
}

#[test]
fn a_registry_of_this_machine() {
    insta::assert_snapshot!(of_npm(NpmClient {
        installed: true,
        npmrc: vec![file("/home/me/.npmrc", "registry=http://localhost:4873/\n")],
        ..NpmClient::default()
    }));
}

#[test]
fn pip_with_a_company_mirror() {
    insta::assert_snapshot!(of_pip(PipClient {
        installed: true,
        defaults: vec!["https://pip.example/simple".into(), "https://files.example/".into()],
        pip_conf: vec![
            file("/etc/pip.conf", "[global]\nindex-url = https://old.example/simple\ntrusted-host = mirror.example\n"),
            file(
                "/home/me/pip.conf",
                "[install]\nindex_url: https://me:canary@mirror.example/simple\n[global]\nfind-links =\n  /opt/wheels\n\
                 \x20 https://wheels.example/\n[freeze]\nindex-url=https://unused.example/\n"
            ),
            file("/project/.venv/pip.conf", "[global]\nextra-index-url = https://evil.example/\n"),
        ],
        environment: variables(&[("PIP_EXTRA_INDEX_URL", "https://a.example/ https://b:canary@b.example/x")]),
        ..PipClient::default()
    }));
}

#[test]
fn uv_with_indexes_of_its_own() {
    insta::assert_snapshot!(of_pip(PipClient {
        installed: true,
        defaults: vec!["https://pip.example/simple".into(), "https://files.example/".into()],
        uv_installed: true,
        uv_toml: vec![
            file(
                "/home/me/.config/uv/uv.toml",
                "extra-index-url = [\"https://extra.example/\"]\n[[index]]\nname = \"a\"\nurl = \"https://me:canary@a.example/simple\"\n\
                 default = true\n[[index]]\nurl = \"/opt/index\"\n[pip]\nindex-url = \"https://of-pip.example/\"\n"
            ),
            file(
                "/project/pyproject.toml",
                "[project]\nname = \"x\"\n[[tool.uv.index]]\nurl = \"https://torch.example/\"\n"
            ),
            file("/project/uv.toml", "not toml"),
        ],
        environment: variables(&[
            ("UV_INDEX", "b=https://b.example/ https://c.example/"),
            ("UV_INDEX_B_PASSWORD", "canary")
        ]),
        ..PipClient::default()
    }));
}

#[test]
fn cargo_with_a_replaced_source_and_registries() {
    insta::assert_snapshot!(of_cargo(CargoClient {
        installed: true,
        indexes: vec![CargoIndex { host: "mirror.example".into(), places: vec!["https://dl.example/x".into()] }],
        config: vec![
            file(
                "/home/me/.cargo/config.toml",
                "[source.crates-io]\nreplace-with = \"mirror\"\n[source.mirror]\nregistry = \"sparse+https://mirror.example/index/\"\n\
                 [source.unused]\nregistry = \"https://unused.example/\"\nreplace-with = \"mirror\"\n\
                 [source.vendored]\ndirectory = \"vendor\"\n[source.a]\nreplace-with = \"b\"\n[source.b]\nreplace-with = \"a\"\n\
                 [registry]\ndefault = \"team\"\ntoken = \"canary\"\n\
                 [registries.team]\nindex = \"sparse+https://me:canary@team.example/\"\ntoken = \"canary\"\n"
            ),
            file(
                "/project/.cargo/config.toml",
                "[registries.evil]\nindex = \"https://evil.example/\"\n[source.crates-io]\nreplace-with = \"evil\"\n"
            ),
        ],
        environment: variables(&[
            ("CARGO_REGISTRIES_ENV_INDEX", "https://env.example/index"),
            ("CARGO_REGISTRIES_ENV_TOKEN", "canary"),
            ("CARGO_REGISTRY_TOKEN", "canary"),
        ]),
        ..CargoClient::default()
    }));
}

#[test]
fn apt_with_a_mirror_and_a_proxy() {
    insta::assert_snapshot!(of_apt(AptClient {
        installed: true,
        repositories: vec!["https://me:canary@mirror.example/debian".into()],
        proxies: vec![
            "Acquire::http::Proxy \"http://cache.example:3142\";".into(),
            "Acquire::https::Proxy \"DIRECT\";".into(),
            "Acquire::http::Proxy::mirror.example \"http://other.example:3142/\";".into(),
            "Acquire::http::Timeout \"5\";".into(),
        ],
        mirror: Some("http://own.example/debian".into()),
    }));
}

#[test]
fn git_with_remotes_of_all_kinds_and_rewriting() {
    insta::assert_snapshot!(of_git(
        &[
            ("core.fsmonitor", "touch /tmp/x"),
            ("remote.origin.url", "https://hub.example/team/x.git"),
            ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"),
            ("remote.a.b.url", "git@git.example:team/x.git"),
            ("remote.a.b.pushurl", "ssh://git@push.example:2222/x"),
            ("remote.work.url", "work:team/y"),
            ("remote.disk.url", "/srv/git/x.git"),
            ("submodule.lib.url", "https://lib.example/lib.git"),
            ("submodule.lib.active", "true"),
        ],
        &[
            ("url.https://mirror.example/hub/.insteadof", "https://hub.example/"),
            ("url.ssh://git@hub.example/.pushinsteadof", "https://hub.example/"),
            ("url.https://me:canary@lib.example/.insteadof", "https://lib.example/"),
            ("url.git@corp.example:.insteadof", "work:"),
            ("credential.https://git.example.helper", ""),
            ("http.https://mirror.example.extraheader", ""),
        ]
    ));
}

#[test]
fn a_hostile_repository_reaches_nothing_of_this_machine() {
    insta::assert_snapshot!(of_git(
        &[
            ("remote.a.url", "http://127.0.0.1:8080/"),
            ("remote.b.url", "http://[::ffff:169.254.169.254]/latest/meta-data"),
            ("remote.c.url", "ssh://-oProxyCommand=touch$IFS/tmp/x/y"),
            ("remote.d.url", "-oProxyCommand=x:y"),
            ("remote.e.url", "ext::sh -c touch% /tmp/x"),
            ("remote.f.url", "http://intranet.example:6379/"),
            ("remote.i.url", "http://10.1.2.3/"),
            ("remote.l.url", "http://mail.example:25/"),
            ("remote.j.url", "192.168.1.1:x"),
            ("remote.k.url", "ssh://2130706433/x"),
            ("url.http://localhost/.insteadof", "https://hub.example/"),
            ("remote.g.url", "https://hub.example/x"),
            ("credential.http://intranet.example.helper", "!touch /tmp/x"),
            ("remote.h.url", "https://evil.example\u{1b}[2J/"),
        ],
        &[]
    ));
    let many: Vec<(String, String)> =
        (0..300).map(|n| (format!("remote.{n}.url"), format!("https://h{n}.example/"))).collect();
    let git = GitClient { installed: true, repository: many, user: Vec::new() };
    let answer = answer(SetName::Git, &HostClients { git, ..HostClients::default() }).unwrap();
    assert_eq!((answer.rules.len(), answer.warnings.len()), (256, 1));
}
