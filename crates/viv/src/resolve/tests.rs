use super::*;

fn host() -> HostEnvironment {
    let variables = [
        ("TERM", "xterm-kitty"),
        ("COLORTERM", "truecolor"),
        ("TZ", ":/etc/localtime"),
        ("EDITOR", "vi"),
        ("SECRET", "hunter2"),
    ];
    HostEnvironment {
        directory: "/home/ann/project".into(),
        home: Some("/home/ann".into()),
        uid: 1234,
        gid: 1235,
        cpus: 8,
        memory: Some(16 << 30),
        timezone: Some("Europe/Vienna".to_owned()),
        variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}

pub(super) fn request(settings: Layer) -> Request {
    Request {
        id: "0123abcd".into(),
        settings,
        workspace: "/home/ann/project".into(),
        command: vec!["make".into(), "test".into()],
        terminal: None,
    }
}

pub(super) fn resolved_with(request: Request) -> Resolved {
    resolve(request, &host(), &|path| Ok(path.to_path_buf())).unwrap()
}

fn resolved(settings: Layer) -> Result<Resolved, Error> {
    resolve(request(settings), &host(), &|path| Ok(path.to_path_buf()))
}

pub(super) fn found<T>(value: T, origin: Origin) -> Found<T> {
    Found { value, origin }
}

fn mount(source: &str, destination: Option<&str>, origin: Origin) -> Found<MountRequest> {
    let destination = destination.map(str::to_owned);
    found(MountRequest { source: source.into(), destination, read_only: false }, origin)
}

#[test]
fn defaults() {
    insta::assert_json_snapshot!(resolved(Layer::default()).unwrap());
}

#[test]
fn the_command_line_wins_over_the_project_over_the_user() {
    let user = Layer {
        cpus: Some(found(1, Origin::UserConfig)),
        memory: Some(found(Size(1 << 30), Origin::UserConfig)),
        disk: Some(found(Size(10 << 30), Origin::UserConfig)),
        env: [
            ("A".to_owned(), found(EnvironmentValue::Literal("user".into()), Origin::UserConfig)),
            ("EDITOR".to_owned(), found(EnvironmentValue::FromHost, Origin::UserConfig)),
        ]
        .into(),
        mounts: vec![mount("/data", None, Origin::UserConfig), mount("/old", Some("/place"), Origin::UserConfig)],
        ..Layer::default()
    };
    let project = Layer {
        memory: Some(found(Size(2 << 30), Origin::Project)),
        disk: Some(found(Size(20 << 30), Origin::Project)),
        env: [("A".to_owned(), found(EnvironmentValue::Literal("project".into()), Origin::Project))].into(),
        workdir: Some(found("packages/api".into(), Origin::Project)),
        ..Layer::default()
    };
    let command_line = Layer {
        disk: Some(found(Size(40 << 30), Origin::CommandLine)),
        env: [("UNSET".to_owned(), found(EnvironmentValue::FromHost, Origin::CommandLine))].into(),
        mounts: vec![mount("/new", Some("/place"), Origin::CommandLine)],
        name: Some(found("review".into(), Origin::CommandLine)),
        user: Some(found("root".into(), Origin::CommandLine)),
        timeout: Some(found(Duration::from_secs(90), Origin::CommandLine)),
        ..Layer::default()
    };
    insta::assert_json_snapshot!(resolved(command_line.over(project).over(user)).unwrap());
}

#[test]
fn at_a_terminal_the_program_is_told_which() {
    let mut request = request(Layer::default());
    request.terminal = Some(TerminalSize { columns: 100, rows: 30 });
    let exec = resolve(request, &host(), &|path| Ok(path.to_path_buf())).unwrap().exec;
    let expected = [("COLORTERM", "truecolor"), ("TERM", "xterm-256color")];
    assert_eq!(exec.env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}

#[test]
fn files_of_root_belong_to_an_ordinary_user_inside() {
    let root = HostEnvironment { uid: 0, gid: 0, ..host() };
    let user = resolve(request(Layer::default()), &root, &|path| Ok(path.to_path_buf())).unwrap().sandbox.user;
    assert_eq!((user.uid, user.gid), (1000, 1000));
    let ordinary = resolved(Layer::default()).unwrap().sandbox.user;
    assert_eq!((ordinary.uid, ordinary.gid, ordinary.home.as_str()), (1234, 1235, "/home/agent"));
}

#[test]
fn what_cannot_be_is_refused() {
    let twice = Layer {
        mounts: vec![mount("/a", Some("/x"), Origin::CommandLine), mount("/b", Some("/x"), Origin::CommandLine)],
        ..Layer::default()
    };
    assert_eq!(resolved(twice).unwrap_err().to_string(), "two mounts have the same destination, /x");
    let over_workspace =
        Layer { mounts: vec![mount("/a", Some("/home/ann/project"), Origin::CommandLine)], ..Layer::default() };
    assert_eq!(
        resolved(over_workspace).unwrap_err().to_string(),
        "/home/ann/project is already where the workspace is"
    );
    let greedy = Layer { memory: Some(found(Size(64 << 30), Origin::CommandLine)), ..Layer::default() };
    let error = resolved(greedy).unwrap_err();
    assert_eq!(error.to_string(), "64 GiB of memory are asked for, but this host has 16 GiB");
    assert_eq!(error.hints(), ["--memory 8G"]);
    let missing = Layer { mounts: vec![mount("/missing", None, Origin::CommandLine)], ..Layer::default() };
    let error = resolve(request(missing), &host(), &|_| Err(io::ErrorKind::NotFound.into())).unwrap_err();
    assert_eq!(error.to_string(), "the mount's source /missing cannot be opened");
}

#[test]
fn more_cpus_than_the_host_has_are_a_warning() {
    let many = Layer { cpus: Some(found(16, Origin::CommandLine)), ..Layer::default() };
    let warnings = resolved(many).unwrap().warnings;
    assert_eq!(warnings[0].message, "16 CPUs are asked for, but the host has 8: they will share");
}

#[test]
fn relative_directories_are_meant_from_the_workspace() {
    assert_eq!(working_directory(None, "/w"), "/w");
    assert_eq!(working_directory(Some("/tmp".into()), "/w"), "/tmp");
    assert_eq!(working_directory(Some("a/b".into()), "/w"), "/w/a/b");
    assert_eq!(working_directory(Some("a".into()), "/"), "/a");
}

#[test]
fn time_zones_are_told_from_files() {
    for zone in ["Europe/Berlin", "UTC", "CET-1CEST,M3.5.0,M10.5.0/3", "<+03>-3", "Etc/GMT+3"] {
        assert!(is_time_zone(zone), "{zone}");
    }
    for file in ["", ":/etc/localtime", "/etc/localtime", ":Europe/Berlin", "x\ny", "../../etc/passwd"] {
        assert!(!is_time_zone(file), "{file}");
    }
}
