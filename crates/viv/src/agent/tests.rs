use clap::Parser;
use viv_sandbox::Paths;

use super::*;
use crate::cli;

fn arguments(words: &[&str]) -> RunArguments {
    match Cli::try_parse_from(["viv", "run"].iter().chain(words)).unwrap().command {
        cli::Command::Run(arguments) => *arguments,
        other => panic!("{other:?}"),
    }
}

fn call(words: &[&str], surroundings: Surroundings) -> Result<Option<AgentCall>, String> {
    let directory = tempfile::tempdir().unwrap();
    let below = |name: &str| directory.path().join(name);
    let paths = Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") };
    AgentCall::of(&arguments(words), &paths, surroundings).map_err(|failure| failure.report.unwrap().message)
}

const AT_TERMINAL: Surroundings = Surroundings { input: Input::Terminal, terminal: true };
const IN_A_PIPE: Surroundings = Surroundings { input: Input::Stream, terminal: false };
const IN_A_JOB: Surroundings = Surroundings { input: Input::Nothing, terminal: false };
/// The output goes elsewhere.
const TYPED_AT: Surroundings = Surroundings { input: Input::Terminal, terminal: false };

#[test]
fn where_the_prompt_is_decides_how_an_agent_is_started() {
    let prompt = |words: &[&str], surroundings| call(words, surroundings).map(|call| call.unwrap().prompt);
    let fix = || "fix it".to_owned();
    assert_eq!(prompt(&["claude"], AT_TERMINAL), Ok(Prompt::None));
    assert_eq!(prompt(&["claude", "fix", "it"], AT_TERMINAL), Ok(Prompt::First(fix())));
    for elsewhere in [IN_A_PIPE, IN_A_JOB, TYPED_AT] {
        assert_eq!(prompt(&["claude", "fix it"], elsewhere), Ok(Prompt::Headless(fix())));
        assert_eq!(prompt(&["claude", "--", "-p", "fix it"], elsewhere), Ok(Prompt::None));
    }
    assert_eq!(prompt(&["claude"], IN_A_PIPE), Ok(Prompt::Input));
    for nothing in [IN_A_JOB, TYPED_AT] {
        assert_eq!(
            prompt(&["claude"], nothing),
            Err("there is no terminal here, and nothing for claude to do".to_owned())
        );
    }
    assert_eq!(prompt(&["--dry-run", "claude"], IN_A_JOB), Ok(Prompt::None));
    // What is typed at viv while it works is not for an agent that has its prompt.
    assert!(!call(&["claude", "fix it"], TYPED_AT).unwrap().unwrap().takes_input());
    for (words, surroundings) in
        [(&["claude", "fix it"][..], IN_A_PIPE), (&["claude"], AT_TERMINAL), (&["claude"], IN_A_PIPE)]
    {
        assert!(call(words, surroundings).unwrap().unwrap().takes_input());
    }
}

#[test]
fn the_dashes_divide_the_prompt_from_the_agents_own_flags() {
    let own = |words: &[&str]| call(words, IN_A_JOB).map(|call| call.unwrap().arguments);
    assert_eq!(own(&["claude", "--", "-p", "x"]).unwrap(), ["-p", "x"]);
    assert_eq!(own(&["claude", "x", "--", "--model", "--", "m"]).unwrap(), ["--model", "--", "m"]);
    // Before the agent's name they are viv's, and end its flags.
    assert_eq!(own(&["--", "claude", "--", "-p", "x"]).unwrap(), ["-p", "x"]);
    assert_eq!(own(&["claude", "-p", "x"]).unwrap_err(), "-p stands after claude, where its prompt is");
}

#[test]
fn flags_after_the_name_are_told_apart() {
    let shown = |flag: &str| flag_of_run(flag).unwrap_or_default();
    assert_eq!(
        ["--memory", "--memory=2G", "-p", "--json", "-q"].map(shown),
        ["--memory …", "--memory=2G", "-p …", "--json", "-q"]
    );
    assert_eq!(["--resume", "--model=x", "-Z", "-"].map(shown), [""; 4]);
}

#[test]
fn a_misspelt_agent_is_offered() {
    let directory = tempfile::tempdir().unwrap();
    let below = |name: &str| directory.path().join(name);
    let paths = Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") };
    let hints = |program: &str| {
        let failure = Failure::from(Error::new(ErrorKind::NotFound, format!("{program}: not found")));
        about_program(program, &paths, failure).report.unwrap().hints
    };
    assert_eq!(hints("clude"), ["did you mean the agent? viv run claude"]);
    for program in ["pip", "make", "cargo", "./x"] {
        assert_eq!(hints(program), [""; 0], "{program}");
    }
}

#[test]
fn other_commands_are_no_agents() {
    for words in [&["make"][..], &["env", "claude"], &["./claude"], &[], &["--", "sh", "-c", "claude"]] {
        assert!(call(words, IN_A_JOB).unwrap().is_none(), "{words:?}");
    }
    assert!(call(&["--fresh", "make"], IN_A_JOB).is_err());
}

#[test]
fn a_preset_is_under_all_other_settings() {
    let host = |memory| {
        let mut host = HostEnvironment::probe().unwrap();
        host.memory = memory;
        host
    };
    let layer = |words: &[&str], memory| call(words, AT_TERMINAL).unwrap().unwrap().layer(&host(memory));
    let preset = layer(&["claude"], Some(64 << 30));
    let names = |found: &[Found<String>]| found.iter().map(|found| found.value.clone()).collect::<Vec<_>>();
    assert_eq!(names(&preset.gateway), ["anthropic"]);
    assert_eq!(preset.packages[0].value.to_string(), "npm:@anthropic-ai/claude-code-linux-x64@2.1.330");
    let memory = |layer: &Layer| layer.memory.as_ref().unwrap().value;
    assert_eq!(memory(&preset), Size(4 << 30));
    // No more than a small host can give, and never less than any sandbox has.
    assert_eq!(memory(&layer(&["claude"], Some(4 << 30))), Size(3 << 30));
    assert_eq!(memory(&layer(&["claude"], Some(1 << 30))), DEFAULT_MEMORY);
    let asked = arguments(&["--memory", "8G", "claude"]).layer(Path::new("/"));
    assert_eq!(memory(&asked.over(preset)), Size(8 << 30));
    assert!(layer(&["--gateway", "local", "claude"], None).gateway.is_empty());
}
