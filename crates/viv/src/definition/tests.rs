use std::collections::BTreeMap;

use super::*;
use crate::network::trusted;
use viv_sandbox::WorkspaceMode;

struct Place {
    _root: tempfile::TempDir,
    workspace: PathBuf,
    host: HostEnvironment,
    paths: Paths,
}

impl Place {
    fn new(project: &str, user: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().canonicalize().unwrap();
        let below = |name: &str| base.join(name);
        for directory in ["My Project", "elsewhere", "config"] {
            std::fs::create_dir(below(directory)).unwrap();
        }
        let workspace = below("My Project");
        std::fs::write(workspace.join(PROJECT_FILE), project).unwrap();
        std::fs::write(below("config").join(USER_FILE), user).unwrap();
        let host = HostEnvironment {
            directory: workspace.clone(),
            home: Some(base.clone()),
            uid: 1000,
            gid: 1000,
            cpus: 4,
            memory: None,
            variables: BTreeMap::new(),
            timezone: None,
        };
        let paths =
            Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") };
        Self { _root: root, workspace, host, paths }
    }

    fn all(&self) -> Result<Vec<Definition>, Error> {
        all(&self.workspace, &self.host, &self.paths)
    }

    fn find(&self, name: Option<&str>) -> Result<Definition, Error> {
        find(name, &self.workspace, &self.host, &self.paths)
    }

    fn names(&self) -> Vec<String> {
        self.all().unwrap().into_iter().map(|definition| definition.name).collect()
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.expect_err("it must be refused");
    format!("{error} {:?}", error.hints())
}

#[test]
fn a_directory_of_which_no_file_speaks_has_a_sandbox_of_its_name() {
    let place = Place::new("[run]\ncpus = 1\n", "");
    let found = place.all().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name.as_str(), found[0].persist), ("my-project", false));
    assert_eq!(found[0].workspace, place.workspace);
    assert_eq!(place.find(None).unwrap(), found[0]);
    assert_eq!(found[0].layer.cpus, None, "what [run] says is laid under it elsewhere");
}

#[test]
fn a_project_describes_its_own_and_others() {
    let place = Place::new(
        r#"
        [run]
        name = "shop"
        [sandbox]
        cpus = 4
        persist = true
        workspace-mode = "clone"
        protect = [".envrc"]
        on-create = ["npm ci", ["make", "tools"]]
        [sandboxes.db]
        image = "oci:postgres"
        on-start = ["true"]
        "#,
        "[sandboxes.scratch]\nworkspace = \"~/elsewhere\"\npublish = [\"8080\"]\n",
    );
    assert_eq!(place.names(), ["shop", "db"]);
    let own = place.find(None).unwrap();
    assert_eq!(own.name, "shop");
    assert!(own.persist && !own.autostart);
    assert_eq!(own.layer.workspace_mode.as_ref().unwrap().value, WorkspaceMode::Clone);
    assert_eq!(own.layer.protect[0].value, Path::new(".envrc"));
    assert_eq!(own.on_create, [vec!["/bin/sh", "-c", "npm ci"], vec!["make", "tools"]]);
    assert_eq!(place.find(Some("db")).unwrap().on_start.len(), 1);
    let scratch = place.find(Some("scratch")).unwrap();
    assert!(scratch.workspace.ends_with("elsewhere") && scratch.file.ends_with(USER_FILE));
    assert_eq!(scratch.layer.publish.len(), 1);
    insta::assert_snapshot!(refusal(place.find(Some("dbb"))), @r#"no sandbox is called dbb ["did you mean `db`?"]"#);
}

#[test]
fn one_has_to_be_chosen_where_none_is_the_directorys_own() {
    let place = Place::new("[sandboxes.a]\n[sandboxes.b]\n", "");
    assert!(refusal(place.find(None)).contains("name one"));
    assert_eq!(place.find(Some("b")).unwrap().name, "b");
    assert_eq!(Place::new("[sandboxes.a]\n", "").find(None).unwrap().name, "a");
    let users = "[sandboxes.mine]\nworkspace = \"~/My Project\"\n";
    assert_eq!(Place::new("", users).find(None).unwrap().name, "mine");
}

#[test]
fn a_name_belongs_to_one_sandbox() {
    let users = "[sandboxes.db]\nworkspace = \"~/elsewhere\"\n";
    for (project, user) in [("[sandboxes.db]\n", users), ("[sandbox]\nname = \"db\"\n[sandboxes.db]\n", "")] {
        assert!(refusal(Place::new(project, user).all()).contains("two sandboxes are called db"), "{project}");
    }
}

#[test]
fn a_project_gets_an_agent_an_autostart_and_a_network_once_it_is_trusted() {
    let place = Place::new(
        "[sandbox]\nagent = \"claude\"\nautostart = true\nallow = [\"a.example\"]\nnet = \"nat\"\ncpus = 2\n",
        "",
    );
    let found = place.find(None).unwrap();
    assert_eq!((found.agent, found.autostart, found.layer.allow.len()), (None, false, 0));
    assert!(found.layer.net.is_none() && found.layer.cpus.is_some());
    insta::assert_snapshot!(found.withheld.unwrap());
    let file = place.workspace.join(PROJECT_FILE);
    let project = file::read(&file, Trust::Project { workspace: &place.workspace }).unwrap();
    trusted::record(&place.paths, &place.workspace, trusted::wish(&project).as_deref()).unwrap();
    let found = place.find(None).unwrap();
    assert_eq!((found.agent.as_deref(), found.autostart, found.withheld), (Some("claude"), true, None));
    assert!(found.layer.net.is_some() && found.layer.allow.len() == 1);
}

#[test]
fn names_fit() {
    let fit = |name: &str| fit_name(Path::new("/x").join(name).as_path());
    assert_eq!(fit("My Project_2"), "my-project-2");
    assert_eq!(fit("--a--"), "a");
    assert_eq!(fit("日本"), "sandbox");
    assert_eq!(fit_name(Path::new("/")), "sandbox");
    let long = format!("{}-b", "a".repeat(62));
    assert_eq!(fit(&long), "a".repeat(62));
}
