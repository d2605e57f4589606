use viv_sandbox::KernelChoice;

use super::*;

fn user_file(text: &str) -> Result<Configuration, Error> {
    parse(text, Path::new("/home/ann/.config/viv/config.toml"), Trust::User { home: Some(Path::new("/home/ann")) })
}

fn user(text: &str) -> Result<Layer, Error> {
    user_file(text).map(|configuration| configuration.layer)
}

fn project_file_in(workspace: &Path, text: &str) -> Result<Configuration, Error> {
    parse(text, Path::new("/project/viv.toml"), Trust::Project { workspace })
}

fn project_in(workspace: &Path, text: &str) -> Result<Layer, Error> {
    project_file_in(workspace, text).map(|configuration| configuration.layer)
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.expect_err("it must be refused");
    let cause = std::error::Error::source(&error).map(|cause| format!(" | {cause}")).unwrap_or_default();
    let hints: String = error.hints().iter().map(|hint| format!(" [{hint}]")).collect();
    format!("{error}{cause}{hints}")
}

#[test]
fn everything_a_user_may_set() {
    let layer = user(
        r#"
        [run]
        cpus = 4
        memory = "4G"
        disk = "40G"
        env = { A = "1", B = "two" }
        env-from-host = ["EDITOR", "A"]
        mounts = ["~/data:/data:ro", { source = "/a:b", destination = "/ab", read-only = true }]
        workdir = "packages"
        user = "root"
        timeout = "90s"
        vmm = "qemu"
        accel = "tcg"
        kernel = "/srv/vmlinux"
        image = "~/root.erofs"
        record = "all"
        name = "review"
        labels = { team = "core" }
        net = "bridge:br0"
        allow = ["@npm", "*.example.com:443", "10.0.0.0/8"]
        deny = ["tracker.example.com"]
        gateway = ["anthropic", "local"]
        budget = "5usd,100-requests"
        publish = ["0:8080"]
        secrets = { TOKEN = "file:~/.token" }
        localhost-port = 0
        ssh-agent = true
        trust = ["/srv/ca.pem"]
        [image]
        packages = ["ripgrep", "npm:prettier@3"]
        devcontainer = "web"
        cache-limit = "40G"
        [gateway.local]
        url = "http://10.0.0.5:8000"
        key = "none"
        [prices]
        m-1 = { input = 1, output = 2.5 }
        "#,
    )
    .unwrap();
    insta::assert_debug_snapshot!(layer);
}

#[test]
fn every_example_of_the_reference_is_accepted() {
    for (section, settings) in [("run", definitions::ALL), ("image", definitions::IN_IMAGE)] {
        for setting in settings {
            let text = format!("[{section}]\n{} = {}\n", setting.key, setting.example);
            assert_ne!(user(&text).unwrap(), Layer::default(), "{}", setting.key);
        }
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let refusals: Vec<String> = [
        "[run]\nmemmory = \"4G\"",
        "[run]\ni-know = true",
        "[run]\nfavourite-colour = \"blue\"",
        "memory = \"4G\"",
        "[rum]\nmemory = \"4G\"",
        "[network]\nmode = \"none\"",
        "run = 3",
        "[run]\nmemory = \"lots\"",
        "[run]\nmemory = 4096",
        "[run]\n  cpus = 0",
        "[run]\ncpus = [1]",
        "[run]\ncpus = 2.5",
        "[run]\nenv = \"A=1\"",
        "[run]\nenv = { \"A B\" = \"1\" }",
        "[run]\nenv = { ÄÖ = \"1\" }",
        "[run]\n# ünïcode before\nmounts = [\"/a\", 7]",
        "[run]\nmounts = [\"relative\"]",
        "[run]\nmounts = [{ source = \"/a\", readonly = true }]",
        "[run]\nmounts = [{ destination = \"/a\" }]",
        "[run]\ntimeout = \"soon\"",
        "[run]\naccel = \"hvf\"",
        "[run]\nvmm = \"firecracker\"",
        "[run]\nrecord = true",
        "[run]\nname = \"Not A Name\"",
        "[image]\nform = \"debian\"",
        "[image]\ncpus = 1",
        "[image]\nfrom = \"oci:\"",
        "[image]\npackages = [\"-o\"]",
        "[image]\ndevcontainer = \"../x\"",
        "[image]\ncache-limit = 20",
        "[image]\nfrom = \"debian\"\n[run]\nimage = \"debian\"",
        "[run]\npackages = [\"git\"]\n[image]\npackages = [\"git\"]",
        "from = \"debian\"",
        "image = \"debian\"",
        "[run]\ncpus = 1\ncpus = 2",
        "[run\n",
        "[run]\n\"\\u001b[2J\" = 1",
    ]
    .into_iter()
    .map(|text| format!("{text:?}\n  {}", refusal(user(text))))
    .collect();
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn a_project_may_change_the_sandbox_but_not_what_it_sees_of_the_host() {
    let directory = tempfile::tempdir().unwrap();
    let workspace = directory.path().canonicalize().unwrap();
    std::fs::create_dir(workspace.join("data")).unwrap();
    std::fs::create_dir_all(workspace.join(".git/hooks")).unwrap();
    std::os::unix::fs::symlink(".git", workspace.join("innocent")).unwrap();
    std::os::unix::fs::symlink("/etc", workspace.join("link")).unwrap();
    let project = |text: &str| project_in(&workspace, text);

    let layer = project("[run]\nmemory = \"4G\"\nmounts = [\"data:/data:ro\"]\nenv = { A = \"1\" }").unwrap();
    assert_eq!(layer.mounts[0].value.source, workspace.join("data"));
    assert_eq!(layer.memory.unwrap().origin, Origin::Project);
    assert!(project("[run]\nmounts = [\".git:/g:ro\"]").is_ok());
    let absolute = format!("[run]\nimage = \"{}\"", workspace.join("data").display());
    assert_eq!(project(&absolute).unwrap().image.unwrap().value.path(), Some(workspace.join("data").as_path()));

    // Kernels by name are the host's own choice to have; a file of such a name needs more of a path.
    std::fs::write(workspace.join("own"), "").unwrap();
    for (text, kernel) in [
        ("own", KernelChoice::Own),
        ("debian", KernelChoice::Debian),
        ("./own", KernelChoice::File(workspace.join("own"))),
    ] {
        assert_eq!(project(&format!("[run]\nkernel = \"{text}\"")).unwrap().kernel.unwrap().value, kernel);
    }

    let refusals: Vec<String> = [
        "mounts = [\"/etc\"]",
        "mounts = [\"../other:/x\"]",
        "mounts = [\"data/../../other\"]",
        "mounts = [\"~/.ssh\"]",
        "mounts = [\"link/passwd\"]",
        "mounts = [{ source = \"link\", destination = \"/x\" }]",
        "mounts = [\"missing\"]",
        "mounts = [\".git:/g\"]",
        "mounts = [\"innocent/hooks:/g\"]",
        "kernel = \"/boot/vmlinuz\"",
        "image = \"link/passwd\"",
        "env-from-host = [\"AWS_SECRET_ACCESS_KEY\"]",
        "secrets = { A = \"file:~/.ssh/id_ed25519\" }",
        "gateway = [\"anthropic\"]",
        "budget = \"1000usd\"",
        "publish = [\"5432\"]",
        "ssh-agent = true",
        "record = \"none\"",
        "trust = [\"link/passwd\"]",
    ]
    .into_iter()
    .map(|line| format!("{line}\n  {}", refusal(project(&format!("[run]\n{line}")))))
    .collect();
    insta::assert_snapshot!(refusals.join("\n"));

    assert!(project("[image]\nfrom = \"oci:alpine\"\npackages = [\"git\"]\ndevcontainer = true").is_ok());
    assert!(project("[image]\nfrom = \"dir:data\"").is_ok());
    let refusals: Vec<String> = [
        "from = \"docker-daemon:tools\"",
        "from = \"name:tools\"",
        "from = \"tar:../other.tar\"",
        "from = \"oci-archive:/srv/tools.tar\"",
        "from = \"dir:link\"",
        "cache-limit = \"1G\"",
    ]
    .into_iter()
    .map(|line| format!("{line}\n  {}", refusal(project(&format!("[image]\n{line}")))))
    .collect();
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn what_a_repository_put_in_the_files_place_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("viv.toml");
    let read = || read(&path, Trust::Project { workspace: directory.path() });
    assert_eq!(read().unwrap(), Configuration::default());
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(read().unwrap_err().to_string().contains("not a regular file"));
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert!(read().unwrap_err().to_string().contains("not a regular file"));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(read().unwrap_err().to_string().contains("at most 1 MiB"));
    std::fs::write(&path, b"[run]\nname = \"\xff\"").unwrap();
    assert!(read().unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn the_nearest_right_name() {
    let known = ["memory", "mounts", "name"];
    assert_eq!(nearest("memmory", known.into_iter()), Some("memory"));
    assert_eq!(nearest("mount", known.into_iter()), Some("mounts"));
    assert_eq!(nearest("colour", known.into_iter()), None);
}
